"""Bytes from the network counted for a reservation: any order of frames, against a plain set of bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memserve.core.enums import DataPath
from memserve.core.errors import InvalidBlocks, TransferFailed
from memserve.core.ids import TransferId, block_index
from memserve.wire.data_messages import WriteRequest
from tests.transfer.parts import BLOCK_SIZE, LIFE, SENDER, TTL_S, Receiver, commit, reserve, tokens

BLOCK_BYTES = 12
TRANSFER = TransferId("t1")


class Filling(Receiver):
    """Two blocks reserved for bytes over the network."""

    def __init__(self) -> None:
        super().__init__()
        asked = msgspec.structs.replace(reserve(data=tokens(2 * BLOCK_SIZE)), path=DataPath.TCP)
        self.blocks = self.sessions.reservations.reserve(asked).blocks

    def frame(self, blocks: tuple[int, ...], start: int, end: int) -> WriteRequest:
        return WriteRequest(
            transfer=TRANSFER,
            ticket=b"",
            blocks=tuple(block_index(self.blocks[number]) for number in blocks),
            offset=start,
            length=end - start,
            checksums=(0,) * len(blocks),
        )

    def begin(self, frame: WriteRequest) -> None:
        self.sessions.arrivals.begin(frame, block_bytes=BLOCK_BYTES)

    def commit(self) -> None:
        self.sessions.reservations.commit(commit(num_blocks=2), None)

    def is_open(self) -> bool:
        self.ledger.check()
        return self.sessions.stats().num_open > 0


FRAMES = st.tuples(
    st.sampled_from([(0,), (1,), (0, 1)]),
    st.integers(0, BLOCK_BYTES - 1),
    st.integers(1, BLOCK_BYTES),
    st.booleans(),
).filter(lambda frame: frame[1] < frame[2])


@given(st.lists(FRAMES, max_size=30))
def test_a_commit_counts_exactly_when_every_byte_was_verified_last(
    frames: list[tuple[tuple[int, ...], int, int, bool]],
) -> None:
    receiver, verified = Filling(), {0: set[int](), 1: set[int]()}
    for blocks, start, end, is_whole in frames:
        frame = receiver.frame(blocks, start, end)
        receiver.begin(frame)
        receiver.sessions.arrivals.end(frame, verified=is_whole)
        for block in blocks:
            touched = set(range(start, end))
            verified[block] = verified[block] | touched if is_whole else verified[block] - touched
    if all(len(found) == BLOCK_BYTES for found in verified.values()):
        receiver.commit()
        assert receiver.num_cached == 2
    else:
        with pytest.raises(TransferFailed, match="of 2 blocks are verified"):
            receiver.commit()
        assert receiver.is_open()


def test_nothing_is_committed_when_nothing_came() -> None:
    with pytest.raises(TransferFailed, match="0 of 2"):
        Filling().commit()


def test_two_frames_may_not_write_the_same_bytes_at_once() -> None:
    receiver = Filling()
    receiver.begin(receiver.frame((0,), 0, 8))
    with pytest.raises(InvalidBlocks, match="another connection"):
        receiver.begin(receiver.frame((0, 1), 7, 9))
    receiver.begin(receiver.frame((0,), 8, 12))
    receiver.begin(receiver.frame((1,), 0, 8))


@pytest.mark.parametrize("ending", ["abort", "expire", "peer left"])
def test_what_ends_a_reservation_waits_for_the_frame_under_way(ending: str) -> None:
    receiver = Filling()
    frame = receiver.frame((0, 1), 0, BLOCK_BYTES)
    receiver.begin(frame)
    if ending == "abort":
        receiver.sessions.reservations.abort(TRANSFER, None)
    elif ending == "expire":
        receiver.clock.advance(3 * TTL_S)
    else:
        receiver.sessions.peer_left(SENDER, LIFE, process_gone=True)
    receiver.sessions.expire()
    assert receiver.is_open()
    receiver.sessions.arrivals.end(frame, verified=True)
    receiver.sessions.expire()
    assert receiver.is_empty()
    with pytest.raises(TransferFailed):
        receiver.commit()


def test_ranks_fill_their_parts_and_the_last_commit_publishes() -> None:
    receiver = Filling()
    for rank, (start, end) in enumerate(((0, 6), (6, BLOCK_BYTES))):
        assert receiver.num_cached == 0
        frame = receiver.frame((0, 1), start, end)
        receiver.begin(frame)
        receiver.sessions.arrivals.end(frame, verified=True)
        receiver.sessions.reservations.commit(commit(num_blocks=2, rank=rank, num_ranks=2), None)
    assert receiver.num_cached == 2


def test_the_last_rank_cannot_commit_for_one_whose_bytes_are_missing() -> None:
    receiver = Filling()
    frame = receiver.frame((0, 1), 6, BLOCK_BYTES)
    receiver.begin(frame)
    receiver.sessions.arrivals.end(frame, verified=True)
    receiver.sessions.reservations.commit(commit(num_blocks=2, rank=0, num_ranks=2), None)
    with pytest.raises(TransferFailed, match="0 of 2 blocks are verified"):
        receiver.sessions.reservations.commit(commit(num_blocks=2, rank=1, num_ranks=2), None)


def test_after_an_abort_nothing_new_is_written() -> None:
    receiver = Filling()
    receiver.begin(receiver.frame((0,), 0, 4))
    receiver.sessions.reservations.abort(TRANSFER, None)
    with pytest.raises(TransferFailed, match="no open reservation"):
        receiver.begin(receiver.frame((1,), 0, 4))
