"""The allocator against a set, also while its tier grows and shrinks, and each way to hand it wrong blocks."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, InvalidBlocks, PoolExhausted
from memserve.core.ids import BlockId, block_generation, block_index, block_tier, make_block_id
from memserve.pool.allocator import BlockAllocator

NUM_BLOCKS = 12


class AllocatorAgainstASet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.allocator = BlockAllocator(tier=Tier.DRAM, num_blocks=NUM_BLOCKS)
        self.out: list[BlockId] = []
        self.seen: set[BlockId] = set()
        self.there = set(range(NUM_BLOCKS))

    @rule(number=st.integers(1, NUM_BLOCKS + 2))
    def allocate(self, number: int) -> None:
        if number > len(self.there) - len(self.out):
            with pytest.raises(PoolExhausted, match=f"{number} blocks of DRAM asked for"):
                self.allocator.allocate(number)
            return
        blocks = self.allocator.allocate(number)
        assert len(set(blocks)) == number
        assert not self.seen.intersection(blocks), "an id was handed out twice"
        assert not {block_index(b) for b in blocks} & {block_index(b) for b in self.out}
        assert all(block_tier(b) is Tier.DRAM and block_index(b) in self.there for b in blocks)
        self.seen.update(blocks)
        self.out += blocks

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        blocks = data.draw(st.lists(st.sampled_from(self.out), unique=True)) if self.out else []
        self.allocator.free(blocks)
        self.out = [block for block in self.out if block not in blocks]

    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        blocks = data.draw(st.lists(st.sampled_from(self.out), unique=True)) if self.out else []
        self.allocator.retire(blocks)
        self.out = [block for block in self.out if block not in blocks]
        self.there -= {block_index(block) for block in blocks}

    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        missing = sorted(set(range(2 * NUM_BLOCKS)) - self.there)
        positions = data.draw(st.lists(st.sampled_from(missing), unique=True)) if missing else []
        self.allocator.extend(positions)
        self.there.update(positions)

    @rule(data=st.data())
    def freeing_any_wrong_block_frees_none(self, data: st.DataObject) -> None:
        stale = sorted(self.seen - set(self.out))
        wrong = data.draw(st.sampled_from([*stale, make_block_id(Tier.HBM, 0, 0), make_block_id(Tier.DRAM, 0, 99)]))
        with pytest.raises(InvalidBlocks):
            self.allocator.free([*self.out, wrong])

    @rule()
    def naming_a_block_twice_frees_none(self) -> None:
        if self.out:
            with pytest.raises(InvalidBlocks, match="name each once"):
                self.allocator.free([*self.out, self.out[0]])

    @invariant()
    def the_rest_is_free(self) -> None:
        assert self.allocator.num_blocks == len(self.there)
        assert self.allocator.num_free == len(self.there) - len(self.out)
        assert all(map(self.allocator.is_used, self.out))


TestAllocatorAgainstASet = AllocatorAgainstASet.TestCase


def test_a_freed_block_cannot_be_freed_again() -> None:
    allocator = BlockAllocator(tier=Tier.HBM, num_blocks=4)
    blocks = allocator.allocate(2)
    allocator.free(blocks)
    with pytest.raises(InvalidBlocks, match="2 of 2 blocks are not allocated from HBM"):
        allocator.free(blocks)


def test_an_id_of_an_earlier_use_of_the_block_is_stale() -> None:
    allocator = BlockAllocator(tier=Tier.HBM, num_blocks=1)
    (first,) = allocator.allocate(1)
    allocator.free([first])
    (second,) = allocator.allocate(1)
    assert block_index(first) == block_index(second)
    assert block_generation(second) == block_generation(first) + 1
    with pytest.raises(InvalidBlocks):
        allocator.free([first])


@pytest.mark.parametrize("number", [0, -1])
def test_fewer_than_one_block_cannot_be_allocated(number: int) -> None:
    with pytest.raises(InvalidBlocks, match="at least 1"):
        BlockAllocator(tier=Tier.DRAM, num_blocks=4).allocate(number)


def test_more_blocks_than_there_are_leave_the_free_ones_alone() -> None:
    allocator = BlockAllocator(tier=Tier.DRAM, num_blocks=4)
    with pytest.raises(PoolExhausted, match=r"9007199254740992 blocks of DRAM asked for, 4 of 4"):
        allocator.allocate(2**53)
    assert allocator.num_free == 4


def test_neighbours_stay_neighbours_after_a_free() -> None:
    allocator = BlockAllocator(tier=Tier.DRAM, num_blocks=8)
    allocator.free(allocator.allocate(8))
    assert [block_index(block) for block in allocator.allocate(8)] == list(range(8))


def test_a_negative_number_of_blocks_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="-1 blocks of DRAM"):
        BlockAllocator(tier=Tier.DRAM, num_blocks=-1)
