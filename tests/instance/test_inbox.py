"""Notices of arrived transfers: in order, bounded in number and in bytes."""

from memserve.core.ids import Incarnation, InstanceId
from memserve.instance.inbox import Inbox
from memserve.instance.records import Received
from memserve.instance.setup import default_identity
from memserve.wire.messages import BlockList, PeerInfo

SENDER = PeerInfo(
    instance=InstanceId("p"),
    incarnation=Incarnation(1),
    endpoint="tcp://127.0.0.1:9",
    identity=default_identity(block_size=4, block_bytes=64),
)


def notice(private: bytes) -> Received:
    addresses = BlockList(instance=InstanceId("me"), incarnation=Incarnation(1), blocks=())
    return Received(sender=SENDER, addresses=addresses, private=private)


def taken(inbox: Inbox) -> list[bytes]:
    found = []
    while (received := inbox.take(deadline_s=0)) is not None:
        found.append(received.private)
    return found


def test_notices_come_in_the_order_of_arrival() -> None:
    inbox = Inbox()
    for private in (b"1", b"2"):
        inbox.put(notice(private))
    assert taken(inbox) == [b"1", b"2"]


def test_the_oldest_go_when_there_are_too_many() -> None:
    inbox = Inbox(max_notices=2)
    for private in (b"1", b"2", b"3"):
        inbox.put(notice(private))
    assert (taken(inbox), inbox.num_dropped) == ([b"2", b"3"], 1)


def test_the_oldest_go_when_their_data_is_too_long_together() -> None:
    inbox = Inbox(max_bytes=10)
    for private in (b"1" * 4, b"2" * 4, b"3" * 8, b""):
        inbox.put(notice(private))
    assert (taken(inbox), inbox.num_dropped) == ([b"3" * 8, b""], 2)
