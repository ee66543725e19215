"""The radix index against a dict of tuples, with every kind of token input and several namespaces."""

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, InvalidBlocks, InvalidTokens
from memserve.core.ids import BlockId, make_block_id
from memserve.pool import radix_index, radix_node
from memserve.pool.invariants import check_index
from memserve.pool.radix_index import Insertion, RadixIndex
from memserve.pool.tokens import Tokens

BLOCK = 2
Prompt = tuple[int, ...]
KINDS: list[Callable[[Prompt], Any]] = [
    list,
    tuple,
    lambda p: array("i", p),
    lambda p: np.array(p, dtype=np.int32),
    lambda p: np.array(p, dtype=np.int64),
    lambda p: np.array(p, dtype="<i4").tobytes(),
    lambda p: memoryview(np.array(p, dtype="<i4").tobytes()),
]

# Few different tokens and blocks, so that prompts share prefixes, and long ones, so that runs are split.
prompts = st.lists(st.sampled_from([(1, 1), (1, 2), (2, 1)]), max_size=14).map(lambda pairs: sum(pairs, ()))
namespaces = st.sampled_from([b"", b"tenant"])
kinds = st.sampled_from(KINDS)


class IndexAgainstADict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = RadixIndex(block_size=BLOCK)
        self.model: dict[tuple[bytes, Prompt], BlockId] = {}
        self.num_made = 0

    def make_blocks(self, number: int) -> tuple[BlockId, ...]:
        self.num_made += number
        return tuple(make_block_id(Tier.DRAM, 0, self.num_made - number + i) for i in range(number))

    def held(self, namespace: bytes, prompt: Prompt) -> tuple[BlockId, ...]:
        blocks: list[BlockId] = []
        for prefix in prefixes(prompt):
            if (namespace, prefix) not in self.model:
                break
            blocks.append(self.model[namespace, prefix])
        return tuple(blocks)

    @rule(prompt=prompts, tail=st.sampled_from([(), (1,)]), kind=kinds, namespace=namespaces, reuse=st.booleans())
    def insert(
        self, prompt: Prompt, tail: Prompt, kind: Callable[[Prompt], Tokens], namespace: bytes, reuse: bool
    ) -> None:
        held = self.held(namespace, prompt)
        number = len(prompt) // BLOCK
        same = held if reuse else ()
        blocks = same + self.make_blocks(number - len(same))
        insertion = self.index.insert(kind(prompt + tail), blocks, namespace=namespace)
        duplicates = tuple(given for given, there in zip(blocks, held, strict=False) if given != there)
        assert insertion == Insertion(num_new=number - len(held), duplicates=duplicates)
        for prefix, block in zip(prefixes(prompt), blocks, strict=True):
            self.model.setdefault((namespace, prefix), block)

    @rule(prompt=prompts, tail=st.sampled_from([(), (1,)]), kind=kinds, namespace=namespaces)
    def match(self, prompt: Prompt, tail: Prompt, kind: Callable[[Prompt], Tokens], namespace: bytes) -> None:
        assert self.index.match(kind(prompt + tail), namespace=namespace) == self.held(namespace, prompt)

    @rule(prompt=prompts.filter(bool), kind=kinds, namespace=namespaces)
    def delete(self, prompt: Prompt, kind: Callable[[Prompt], Tokens], namespace: bytes) -> None:
        below = [key for key in self.model if key[0] == namespace and key[1][: len(prompt)] == prompt]
        removed = self.index.delete(kind(prompt), namespace=namespace)
        assert len(set(removed)) == len(removed)
        assert set(removed) == {self.model.pop(key) for key in below}

    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        if self.model:
            key = data.draw(st.sampled_from(sorted(self.model)))
            (new,) = self.make_blocks(1)
            self.index.replace(self.model[key], new)
            self.model[key] = new

    @rule(data=st.data())
    def a_block_knows_its_tokens(self, data: st.DataObject) -> None:
        if self.model:
            key = data.draw(st.sampled_from(sorted(self.model)))
            assert self.index.tokens_to(self.model[key]) == np.array(key[1], dtype="<i4").tobytes()

    @invariant()
    def the_tree_holds_what_the_dict_holds(self) -> None:
        check_index(self.index, ())
        assert self.index.num_blocks == len(self.model)
        assert {b for node in self.index.nodes() for b in node.blocks} == set(self.model.values())


TestIndexAgainstADict = IndexAgainstADict.TestCase
TestIndexAgainstADict.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_blocks_that_share_a_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own hash cannot be made to collide, so both modules get one that tells nothing apart."""
    for module in (radix_index, radix_node):
        monkeypatch.setattr(module, "hash", lambda _: 7, raising=False)
    run_state_machine_as_test(
        IndexAgainstADict, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


@pytest.mark.parametrize("call", ["match", "insert", "delete"])
@pytest.mark.parametrize(
    "tokens", [[1, 2, 3, -4], np.array([1, 2, 3, -4], dtype=np.int32), [-1, 2], [1, 2] * 2000 + [-7, 7]]
)
def test_a_negative_token_is_refused_wherever_it_comes(call: str, tokens: Any) -> None:
    index = RadixIndex(block_size=BLOCK)
    index.insert([1, 2] * 2000, some_blocks(2000))
    blocks = [some_blocks(len(tokens) // BLOCK)] if call == "insert" else []
    with pytest.raises(InvalidTokens, match="is negative"):
        getattr(index, call)(tokens, *blocks)
    with pytest.raises(InvalidTokens, match="is negative"):
        getattr(index, call)(tokens, *blocks, namespace=b"another")
    assert index.num_blocks == 2000


def prefixes(prompt: Prompt) -> list[Prompt]:
    return [prompt[: end + BLOCK] for end in range(0, len(prompt), BLOCK)]


def some_blocks(number: int) -> tuple[BlockId, ...]:
    return tuple(make_block_id(Tier.DRAM, 0, i) for i in range(number))


def test_tokens_after_the_last_whole_block_do_not_count() -> None:
    index = RadixIndex(block_size=4)
    index.insert(range(8), some_blocks(2))
    assert index.match(range(7)) == some_blocks(1)
    assert index.match(range(3)) == ()
    assert index.match([]) == ()


def test_an_insert_of_fewer_blocks_than_tokens_indexes_that_many() -> None:
    index = RadixIndex(block_size=4)
    assert index.insert(range(40), some_blocks(2)).num_new == 2
    assert index.match(range(40)) == some_blocks(2)


def test_more_blocks_than_tokens_are_refused_and_change_nothing() -> None:
    index = RadixIndex(block_size=4)
    with pytest.raises(InvalidTokens, match="2 blocks of 4 tokens need 8 tokens, 7 are given"):
        index.insert(range(7), some_blocks(2))
    assert index.num_blocks == 0


def test_the_first_copy_stays_and_later_ones_come_back() -> None:
    index = RadixIndex(block_size=4)
    first, others = some_blocks(6)[:2], some_blocks(6)[2:5]
    index.insert(range(8), first)
    assert index.insert(range(12), others) == Insertion(num_new=1, duplicates=others[:2])
    assert index.match(range(12)) == (*first, others[2])


def test_prompts_of_two_namespaces_never_meet() -> None:
    index = RadixIndex(block_size=4)
    index.insert(range(8), some_blocks(2), namespace=b"one")
    assert index.match(range(8)) == ()
    assert index.match(range(8), namespace=b"two") == ()
    assert index.delete(range(8), namespace=b"two") == ()
    assert index.match(range(8), namespace=b"one") == some_blocks(2)


def test_deleting_a_prefix_that_is_not_indexed_removes_nothing() -> None:
    index = RadixIndex(block_size=4)
    index.insert(range(8), some_blocks(2))
    assert index.delete(range(12)) == ()
    assert index.delete([9] * 4) == ()
    assert index.num_blocks == 2


def test_a_delete_needs_a_whole_block() -> None:
    with pytest.raises(InvalidTokens, match="at least one whole block of 4 tokens"):
        RadixIndex(block_size=4).delete([1, 2, 3])


def test_a_block_that_is_not_indexed_has_no_tokens_and_cannot_be_replaced() -> None:
    index = RadixIndex(block_size=4)
    index.insert(range(8), some_blocks(2))
    index.tokens_to(some_blocks(2)[1])
    index.delete(range(8))
    with pytest.raises(InvalidBlocks, match="not in the index"):
        index.tokens_to(some_blocks(2)[1])
    with pytest.raises(InvalidBlocks, match="not in the index"):
        index.replace(some_blocks(2)[1], some_blocks(3)[2])


def test_appending_one_block_at_a_time_makes_no_chain_of_nodes() -> None:
    index = RadixIndex(block_size=1)
    for end in range(1, 200):
        index.insert(range(end), some_blocks(end))
    assert len(list(index.nodes())) == 1


def test_a_block_of_no_tokens_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="block size 0"):
        RadixIndex(block_size=0)
