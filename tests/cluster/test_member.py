"""A member's own side: what it says next, and what it makes of the answers."""

from memserve.cluster.member import Member
from memserve.core.enums import Role
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import (
    DeadInstance,
    HeartbeatReply,
    HeartbeatRequest,
    JoinReply,
    JoinRequest,
    Load,
    PeerInfo,
)

IDENTITY = KvIdentity(model="m", dtype="f", engine="e", backend="b", block_size=32, block_bytes=64, num_layers=1)
PEER = PeerInfo(instance=InstanceId("a"), incarnation=Incarnation(1), endpoint="tcp://x:1", identity=IDENTITY)
JOIN = JoinRequest(cluster="c", peer=PEER, role=Role.PREFILL, url="", pid=1)
B = DeadInstance(instance=InstanceId("b"), incarnation=Incarnation(1))


def joined(*, epoch: int = 5) -> Member:
    member = Member(JOIN)
    member.answered(JoinReply(epoch=Epoch(epoch), heartbeat_s=1.0))
    return member


def beat(member: Member) -> HeartbeatRequest:
    message = member.next_message(Load())
    assert isinstance(message, HeartbeatRequest)
    return message


def test_it_joins_until_it_is_taken_in_and_then_beats() -> None:
    member = Member(JOIN)
    assert member.next_message(Load()) == member.next_message(Load()) == JOIN
    member.answered(JoinReply(epoch=Epoch(5), heartbeat_s=1.0))
    assert beat(member).seen == 5


def test_one_that_is_forgotten_or_gets_no_answer_joins_again() -> None:
    for member in (joined(), joined()):
        member.answered(HeartbeatReply(epoch=Epoch(6), known=False))
        assert member.next_message(Load()) == JOIN
        member.answered(JoinReply(epoch=Epoch(9), heartbeat_s=1.0))
        member.lost()
        assert member.next_message(Load()) == JOIN


def test_what_it_has_seen_grows_only_with_replies_that_came() -> None:
    member = joined(epoch=5)
    assert member.answered(HeartbeatReply(epoch=Epoch(7), known=True, dead=(B,))) == (B,)
    assert beat(member).seen == 7
    assert beat(member).seen == 7


def test_one_that_joins_again_hears_of_all_deaths_since_it_first_came() -> None:
    member = joined(epoch=5)
    member.answered(HeartbeatReply(epoch=Epoch(7), known=True))
    member.lost()
    member.answered(JoinReply(epoch=Epoch(5), heartbeat_s=1.0))
    assert beat(member).seen == 5


def test_its_own_death_is_no_news() -> None:
    member = joined()
    assert member.answered(HeartbeatReply(epoch=Epoch(6), known=True, dead=(member.identity, B))) == (B,)


def test_the_role_that_it_was_given_is_the_one_that_it_joins_with_again() -> None:
    member = joined()
    member.answered(HeartbeatReply(epoch=Epoch(6), known=True, role=Role.DECODE))
    member.lost()
    message = member.next_message(Load())
    assert isinstance(message, JoinRequest)
    assert message.role is Role.DECODE
