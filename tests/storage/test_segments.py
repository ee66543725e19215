"""Shared memory that grows and shrinks: against a set of positions, and on the host's own books."""

import mmap
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memserve.core.errors import ConfigError, InstanceUnavailable, InvalidBlocks
from memserve.core.ids import Incarnation, InstanceId
from memserve.storage.segments import Segments
from memserve.storage.shared_memory import SharedMemory, attach

CLUSTER = f"segmenttest{os.getpid()}"
PAGE = mmap.PAGESIZE


class SegmentsAgainstASet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.segments = Segments(8)
        self.there = set(range(8))

    @rule(number=st.integers(1, 9))
    def grow(self, number: int) -> None:
        added = self.segments.next_to_back(number)
        positions = {position for run in added for position in run}
        assert len(positions) == number
        assert not positions & self.there
        self.segments.back(added)
        self.there |= positions

    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from(sorted(self.there)), unique=True)) if self.there else []
        holes = self.segments.release(gone)
        self.there -= set(gone)
        in_holes = {position for hole in holes for position in hole}
        assert set(gone) <= in_holes
        assert not in_holes & self.there

    @invariant()
    def the_segments_are_what_is_there(self) -> None:
        backed = self.segments.backed()
        assert {position for run in backed for position in run} == self.there
        assert all(left.stop < right.start for left, right in pairwise(backed))
        assert self.segments.num_blocks == len(self.there)


TestSegmentsAgainstASet = SegmentsAgainstASet.TestCase


@pytest.fixture
def arena() -> Iterator[SharedMemory]:
    made = SharedMemory(
        cluster=CLUSTER,
        instance=InstanceId("a"),
        incarnation=Incarnation(time.time_ns()),
        num_blocks=4,
        block_bytes=2 * PAGE,
    )
    yield made
    made.close()


def memory_of(arena: SharedMemory) -> int:
    """Bytes that the host has given to the file."""
    return Path(arena.ref.path).stat().st_blocks * 512


def test_a_peer_that_mapped_the_memory_before_it_grew_sees_the_new_blocks(arena: SharedMemory) -> None:
    peer = attach(arena.ref)
    before = peer.view(3)
    assert arena.grow(2) == (4, 5)
    arena.view(5)[:] = b"n" * 2 * PAGE
    assert bytes(peer.view(5)) == b"n" * 2 * PAGE
    arena.view(3)[:] = b"o" * 2 * PAGE
    assert bytes(before) == b"o" * 2 * PAGE
    with pytest.raises(InvalidBlocks, match="block 6 does not exist"):
        peer.view(6)
    peer.close()


def test_what_is_shrunk_away_is_the_hosts_again_while_a_peer_has_it_mapped(arena: SharedMemory) -> None:
    peer = attach(arena.ref)
    peer.view(1)[:] = b"x" * 2 * PAGE
    arena.view(2)[:] = b"y" * 2 * PAGE
    assert memory_of(arena) == 8 * PAGE
    arena.shrink([1, 3])
    assert memory_of(arena) == 4 * PAGE
    assert arena.num_blocks == 2
    assert bytes(peer.view(2)) == b"y" * 2 * PAGE
    peer.close()


def test_holes_are_filled_before_the_file_gets_longer(arena: SharedMemory) -> None:
    arena.shrink([1, 2])
    assert arena.grow(3) == (1, 2, 4)
    assert arena.segments() == (range(5),)
    assert memory_of(arena) == 10 * PAGE


def test_blocks_smaller_than_a_page_give_back_whole_pages_once_their_neighbours_are_gone() -> None:
    arena = SharedMemory(
        cluster=CLUSTER, instance=InstanceId("s"), incarnation=Incarnation(1), num_blocks=8, block_bytes=PAGE // 4
    )
    arena.shrink([0, 1, 2])
    assert memory_of(arena) == 2 * PAGE
    arena.shrink([3])
    assert memory_of(arena) == PAGE
    arena.close()


def test_growing_beyond_dev_shm_is_refused_with_the_numbers_and_changes_nothing(arena: SharedMemory) -> None:
    with pytest.raises(ConfigError, match=r"asks for \d+ bytes of shared memory but /dev/shm has \d+ bytes free"):
        arena.grow(1 << 40)
    assert (arena.num_blocks, memory_of(arena)) == (4, 8 * PAGE)
    assert arena.grow(1) == (4,)


def test_memory_that_is_closed_does_not_grow(arena: SharedMemory) -> None:
    arena.close()
    with pytest.raises(InvalidBlocks, match="closed"):
        arena.grow(1)
    with pytest.raises(InvalidBlocks, match="closed"):
        arena.shrink([0])


def test_a_peer_whose_owner_left_cannot_follow_its_growth(arena: SharedMemory) -> None:
    peer = attach(arena.ref)
    arena.grow(1)
    arena.close()
    assert len(peer.view(3)) == 2 * PAGE
    with pytest.raises(InstanceUnavailable, match="its owner has left"):
        peer.view(4)
    peer.close()
