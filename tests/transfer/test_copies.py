"""The library path at the receiver: blocks in a peer's name, and copies that are published or undone."""

import msgspec
import pytest

from memserve.core.enums import Tier
from memserve.core.errors import InvalidBlocks, InvalidTokens, PoolExhausted, ProtocolError, TransferFailed
from memserve.core.ids import BlockId, TransferId
from memserve.transfer.limits import MAX_PRIVATE_BYTES
from memserve.wire.messages import BlockList
from tests.transfer.parts import LIFE, OWNER, SENDER, TTL_S, Receiver, alloc, tokens, transfer

T1 = TransferId("t1")


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def test_blocks_for_a_peer_are_its_until_it_frees_them(receiver: Receiver) -> None:
    blocks = receiver.sessions.copies.allocate(alloc(3)).blocks
    receiver.sessions.copies.free(blocks[:1], OWNER)
    assert receiver.num_reserved == 2
    receiver.sessions.copies.free(blocks[1:], OWNER)
    assert receiver.is_empty()


def test_blocks_for_a_peer_expire_unless_it_says_that_it_lives(receiver: Receiver) -> None:
    receiver.sessions.copies.allocate(alloc(3))
    receiver.clock.advance(TTL_S * 0.9)
    receiver.sessions.copies.extend(OWNER)
    receiver.clock.advance(TTL_S * 0.9)
    assert receiver.sessions.expire() == 0
    receiver.clock.advance(TTL_S * 0.1)
    assert receiver.sessions.expire() == 1
    assert receiver.is_empty()


def test_a_peers_death_frees_what_is_held_for_it(receiver: Receiver) -> None:
    receiver.sessions.copies.allocate(alloc(3))
    receiver.sessions.peer_left(SENDER, LIFE, process_gone=False)
    assert receiver.is_empty()


def test_a_peer_cannot_free_what_is_not_held_for_it_or_free_twice(receiver: Receiver) -> None:
    mine = receiver.ledger.allocate(1, tier=Tier.DRAM, owner="me")
    blocks = receiver.sessions.copies.allocate(alloc(2)).blocks
    for wrong in (mine, blocks + mine, blocks + blocks, (BlockId(-5),), ()):
        with pytest.raises(InvalidBlocks):
            receiver.sessions.copies.free(wrong, OWNER)
    with pytest.raises(InvalidBlocks):
        receiver.sessions.copies.free(blocks, "q/1")
    assert receiver.num_reserved == 3
    receiver.sessions.copies.free(blocks, OWNER)
    with pytest.raises(InvalidBlocks):
        receiver.sessions.copies.free(blocks, OWNER)


@pytest.mark.parametrize("num_blocks", [0, -1, 17, 2**62])
def test_an_impossible_number_of_blocks_is_refused(receiver: Receiver, num_blocks: int) -> None:
    with pytest.raises((InvalidBlocks, PoolExhausted)):
        receiver.sessions.copies.allocate(alloc(num_blocks))
    assert receiver.is_empty()


def test_a_copy_with_tokens_is_visible_only_when_complete(receiver: Receiver) -> None:
    data = tokens(8)
    blocks = receiver.sessions.copies.begin(transfer(data=data))
    assert receiver.num_matched(data) == 0
    assert receiver.sessions.copies.complete(T1, OWNER).blocks == blocks
    assert receiver.num_matched(data) == 8
    assert receiver.is_empty()


def test_a_copy_without_tokens_is_held_in_the_senders_name(receiver: Receiver) -> None:
    blocks = receiver.sessions.copies.begin(transfer())
    receiver.sessions.copies.complete(T1, OWNER)
    assert receiver.num_reserved == 2
    receiver.sessions.copies.free(blocks, OWNER)
    assert receiver.is_empty()


def test_a_failed_copy_leaves_nothing_and_its_id_is_used_up(receiver: Receiver) -> None:
    receiver.sessions.copies.begin(transfer(data=tokens(8)))
    receiver.sessions.copies.fail(T1, OWNER)
    assert receiver.is_empty()
    assert receiver.num_cached == 0
    with pytest.raises(TransferFailed, match="begun already"):
        receiver.sessions.copies.begin(transfer(data=tokens(8)))


def test_an_earlier_copy_wins_and_the_reply_names_it(receiver: Receiver) -> None:
    data = tokens(8)
    first = receiver.sessions.copies.begin(transfer("t1", data=data))
    receiver.sessions.copies.complete(T1, OWNER)
    receiver.sessions.copies.begin(transfer("t2", data=data))
    assert receiver.sessions.copies.complete(TransferId("t2"), OWNER).blocks == first
    assert (receiver.num_cached, receiver.is_empty()) == (2, True)


@pytest.mark.parametrize("data", [None, tokens(8)])
def test_a_repeated_transfer_gets_the_same_answer_and_no_second_copy(receiver: Receiver, data: bytes | None) -> None:
    request = transfer(data=data)
    assert receiver.sessions.copies.repeated(request) is None
    receiver.sessions.copies.begin(request)
    reply = receiver.sessions.copies.complete(T1, OWNER)
    assert receiver.sessions.copies.repeated(request) == reply


def test_a_destination_is_filled_and_stays_the_senders(receiver: Receiver) -> None:
    destination = receiver.sessions.copies.allocate(alloc(2)).blocks
    assert receiver.sessions.copies.begin(transfer(destination=destination)) == destination
    assert receiver.sessions.copies.complete(T1, OWNER).blocks == destination
    receiver.sessions.copies.free(destination, OWNER)
    assert receiver.is_empty()


def test_a_destination_with_tokens_becomes_the_indexs(receiver: Receiver) -> None:
    destination = receiver.sessions.copies.allocate(alloc(2)).blocks
    receiver.sessions.copies.begin(transfer(destination=destination, data=tokens(8)))
    receiver.sessions.copies.complete(T1, OWNER)
    assert receiver.is_empty()
    assert receiver.num_matched(tokens(8)) == 8
    with pytest.raises(InvalidBlocks):
        receiver.sessions.copies.free(destination, OWNER)


def test_nothing_frees_a_destination_while_it_is_filled(receiver: Receiver) -> None:
    destination = receiver.sessions.copies.allocate(alloc(2)).blocks
    receiver.sessions.copies.begin(transfer(destination=destination))
    with pytest.raises(InvalidBlocks, match="being filled"):
        receiver.sessions.copies.free(destination, OWNER)
    receiver.sessions.peer_left(SENDER, LIFE, process_gone=True)
    receiver.clock.advance(100 * TTL_S)
    receiver.sessions.expire()
    assert receiver.num_reserved == 2
    with pytest.raises(TransferFailed, match="left"):
        receiver.sessions.copies.complete(T1, OWNER)
    receiver.sessions.expire()
    assert receiver.is_empty()


def test_a_copy_whose_sender_left_meanwhile_leaves_nothing_in_its_name(receiver: Receiver) -> None:
    receiver.sessions.copies.begin(transfer())
    receiver.sessions.peer_left(SENDER, LIFE, process_gone=True)
    assert receiver.num_reserved == 2
    with pytest.raises(TransferFailed, match="left"):
        receiver.sessions.copies.complete(T1, OWNER)
    assert receiver.is_empty()


def test_a_failed_copy_into_a_destination_leaves_it_to_the_sender(receiver: Receiver) -> None:
    destination = receiver.sessions.copies.allocate(alloc(2)).blocks
    receiver.sessions.copies.begin(transfer(destination=destination))
    receiver.sessions.copies.fail(T1, OWNER)
    receiver.sessions.copies.free(destination, OWNER)
    assert receiver.is_empty()


def test_a_wrong_destination_is_refused(receiver: Receiver) -> None:
    held = receiver.sessions.copies.allocate(alloc(2)).blocks
    mine = receiver.ledger.allocate(2, tier=Tier.DRAM, owner="me")
    for wrong in (mine, held[:1], held + held, (held[0], held[0]), (held[0], mine[0]), ()):
        with pytest.raises(InvalidBlocks):
            receiver.sessions.copies.begin(transfer(destination=wrong))
    assert receiver.num_reserved == 4


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"checksums": (1,)}, InvalidBlocks),
        ({"tokens": tokens(7)}, InvalidTokens),
        ({"tokens": b"abc"}, InvalidTokens),
        ({"tokens": b""}, InvalidTokens),
        ({"private": bytes(MAX_PRIVATE_BYTES + 1)}, ProtocolError),
        ({"ttl_s": float("nan")}, ProtocolError),
        ({"transfer": TransferId("x" * 257)}, ProtocolError),
        ({"namespace": bytes(257)}, ProtocolError),
        ({"tier": Tier.DISK}, PoolExhausted),
        ({"source": BlockList(instance=SENDER, incarnation=LIFE, blocks=())}, InvalidBlocks),
        ({"source": BlockList(instance=SENDER, incarnation=LIFE, blocks=(BlockId(5), BlockId(5)))}, InvalidBlocks),
        ({"source": BlockList(instance=SENDER, incarnation=LIFE, blocks=(BlockId(0), BlockId(1)))}, InvalidBlocks),
        ({"source": BlockList(instance=SENDER, incarnation=LIFE, blocks=(BlockId(-9), BlockId(1)))}, InvalidBlocks),
    ],
)
def test_a_transfer_that_makes_no_sense_changes_nothing(
    receiver: Receiver, change: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        receiver.sessions.copies.begin(msgspec.structs.replace(transfer(), **change))
    assert receiver.is_empty()


def _published(receiver: Receiver, name: str, num_blocks: int) -> None:
    """Complete a transfer of the first blocks of the prompt."""
    receiver.sessions.copies.begin(transfer(name, num_blocks=num_blocks, data=tokens(num_blocks * 4)))
    receiver.sessions.copies.complete(TransferId(name), OWNER)


def test_blocks_that_follow_what_is_held_are_indexed_after_it(receiver: Receiver) -> None:
    _published(receiver, "t0", 2)
    rest = msgspec.structs.replace(transfer(num_blocks=1, data=tokens(12)), num_held_blocks=2)
    blocks = receiver.sessions.copies.begin(rest)
    assert receiver.num_matched(tokens(12)) == 8
    assert receiver.sessions.copies.complete(T1, OWNER).blocks == blocks
    assert receiver.num_matched(tokens(12)) == 12
    assert receiver.is_empty()


def test_what_is_said_to_be_held_stays_until_the_transfer_ends(receiver: Receiver) -> None:
    _published(receiver, "t0", 2)
    receiver.sessions.copies.begin(msgspec.structs.replace(transfer(data=tokens(16)), num_held_blocks=2))
    with pytest.raises(PoolExhausted):
        receiver.ledger.allocate(13, tier=Tier.DRAM, owner="greedy")
    receiver.sessions.copies.fail(T1, OWNER)
    assert receiver.is_empty()
    receiver.ledger.allocate(15, tier=Tier.DRAM, owner="greedy")


def test_a_transfer_that_leaves_out_what_is_no_longer_held_is_refused_before_any_byte(receiver: Receiver) -> None:
    _published(receiver, "t0", 1)
    with pytest.raises(TransferFailed, match="only 1 are still indexed"):
        receiver.sessions.copies.begin(msgspec.structs.replace(transfer(data=tokens(16)), num_held_blocks=2))
    assert receiver.is_empty()


@pytest.mark.parametrize(("data", "num_held"), [(None, 1), (tokens(8), -1)])
def test_an_impossible_number_of_held_blocks_is_refused(receiver: Receiver, data: bytes | None, num_held: int) -> None:
    with pytest.raises(InvalidBlocks, match="said to be held"):
        receiver.sessions.copies.begin(msgspec.structs.replace(transfer(data=data), num_held_blocks=num_held))
    assert receiver.is_empty()
