"""A set of blocks that come in batches, against a plain set."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memserve.core.ids import BlockId
from memserve.pool.batches import BlockBatches


class BatchesAgainstASet(RuleBasedStateMachine):
    """`whole` names batches as they came, so that going as they came is a frequent case."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = BlockBatches()
        self.model: set[BlockId] = set()
        self.whole: list[tuple[BlockId, ...]] = []
        self.num_made = 0

    @rule(number=st.integers(0, 4), as_list=st.booleans())
    def add(self, number: int, as_list: bool) -> None:
        blocks = tuple(BlockId(self.num_made + i) for i in range(number))
        self.num_made += number
        self.batches.add(list(blocks) if as_list else blocks)
        self.model.update(blocks)
        self.whole.append(blocks)

    @rule(data=st.data())
    def remove_as_it_came(self, data: st.DataObject) -> None:
        if self.whole:
            blocks = data.draw(st.sampled_from(self.whole))
            there = self.model.issuperset(blocks)
            assert self.batches.remove(blocks) is there
            if there:
                self.model.difference_update(blocks)

    @rule(data=st.data())
    def remove_some(self, data: st.DataObject) -> None:
        blocks = data.draw(st.lists(st.integers(0, self.num_made).map(BlockId), max_size=5))
        fits = self.model.issuperset(blocks) and len(set(blocks)) == len(blocks)
        assert self.batches.remove(tuple(blocks)) is fits
        if fits:
            self.model.difference_update(blocks)

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        block = BlockId(data.draw(st.integers(0, self.num_made)))
        assert (block in self.batches) is (block in self.model)
        assert self.batches.missing([block]) == ([] if block in self.model else [block])

    @rule()
    def copy(self) -> None:
        assert self.batches.as_set() == self.model

    @invariant()
    def has_as_many(self) -> None:
        assert len(self.batches) == len(self.model)


TestBatchesAgainstASet = BatchesAgainstASet.TestCase
