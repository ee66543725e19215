"""The mirror of vLLM's prefix cache against vLLM's own block pool: it never names what vLLM would not find."""

from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_utils import BlockHash, KVCacheBlock

from memserve.core.enums import Tier
from memserve.engines.vllm.hbm_mirror import HbmMirror
from memserve.instance.mempool import MemPool

BLOCK = 4
NUM_BLOCKS = 17
PROMPTS = [text[:length] for text in ("aaaaaaaa", "aaaabbbb", "aabbbbbb", "bbbbbbbb") for length in range(1, 9)]


def tokens(prompt: str) -> bytes:
    """A block a letter."""
    return np.repeat(np.frombuffer(prompt.encode(), np.uint8).astype("<i4"), BLOCK).tobytes()


class Running:
    def __init__(self, key: str, prompt: str, blocks: list[KVCacheBlock]) -> None:
        self.key = key
        self.prompt = prompt
        self.blocks = blocks

    @property
    def ids(self) -> list[int]:
        return [block.block_id for block in self.blocks]


class Engine:
    """vLLM's block pool, used as its scheduler uses it, and the mirror beside it."""

    def __init__(self) -> None:
        self.blocks = BlockPool(num_gpu_blocks=NUM_BLOCKS, enable_caching=True, hash_block_size=BLOCK)
        self.pool = MemPool(
            instance="mirrored", block_size=BLOCK, block_bytes=4096, dram_bytes=4096, cluster="mirrortest"
        )
        self.mirror = HbmMirror(self.pool.engine_blocks, block_size=BLOCK)
        self.mirror.bind(self.blocks)
        self.running: list[Running] = []
        self._numbers = count()

    def cached(self, prompt: str) -> list[KVCacheBlock]:
        """What vLLM finds."""
        found: list[KVCacheBlock] = []
        for end in range(1, len(prompt) + 1):
            hit = self.blocks.get_cached_block(self.hash(prompt[:end]), [0])
            if hit is None:
                break
            found += hit
        return found

    def mirrored(self, prompt: str) -> int:
        with self.pool.match(tokens(prompt)) as match:
            return match.num_engine_tokens // BLOCK

    def start(self, prompt: str, *, is_seen: bool = True) -> Running | None:
        """Room for a prompt, and the first step; None when there is none."""
        hits = self.cached(prompt)
        num_new = len(prompt) - len(hits)
        if num_new > self.blocks.get_num_free_blocks() - sum(block.ref_cnt == 0 for block in hits):
            return None
        self.blocks.touch(hits)
        request = Running(f"r{next(self._numbers)}", prompt, hits + self.blocks.get_new_blocks(num_new))
        hashes = [self.hash(prompt[:end]) for end in range(1, len(prompt) + 1)]
        asked: Any = SimpleNamespace(block_hashes=hashes)
        if len(hits) < len(prompt):
            self.blocks.cache_full_blocks(asked, request.blocks, len(hits), len(prompt), BLOCK, 0)
        if is_seen:
            self.running.append(request)
            self.step(request)
        return request

    def step(self, request: Running) -> None:
        self.mirror.planned(
            request.key, tokens(request.prompt), request.ids, len(request.prompt) * BLOCK, namespace=b""
        )
        self.mirror.step()

    def end(self, request: Running) -> None:
        self.mirror.ended(request.key, tokens(request.prompt), request.ids, namespace=b"")
        self.blocks.free_blocks(reversed(request.blocks))
        self.running.remove(request)

    @staticmethod
    def hash(prompt: str) -> BlockHash:
        return BlockHash(prompt.encode())


class MirrorAgainstVllm(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine()

    @rule(prompt=st.sampled_from(PROMPTS))
    def start(self, prompt: str) -> None:
        self.engine.start(prompt)

    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        if self.engine.running:
            self.engine.step(data.draw(st.sampled_from(self.engine.running)))

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.engine.running:
            request = data.draw(st.sampled_from(self.engine.running))
            self.engine.end(request)
            assert self.engine.mirrored(request.prompt) == len(request.prompt)

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if self.engine.running:
            request = self.engine.running.pop(data.draw(st.integers(0, len(self.engine.running) - 1)))
            self.engine.mirror.dropped(request.key)
            self.engine.blocks.free_blocks(reversed(request.blocks))

    @rule(prompt=st.sampled_from(PROMPTS))
    def a_request_gets_room_and_loses_it_before_it_runs(self, prompt: str) -> None:
        """vLLM's blocks change hands and nobody says so: the steps after it find out."""
        request = self.engine.start(prompt, is_seen=False)
        if request is not None:
            self.engine.blocks.free_blocks(reversed(request.blocks))
        for _ in range(3):
            self.engine.mirror.step()

    @rule()
    def reset(self) -> None:
        if not self.engine.running:
            assert self.engine.blocks.reset_prefix_cache()
            self.engine.mirror.step()

    @invariant()
    def it_names_nothing_that_vllm_does_not_find(self) -> None:
        for prompt in PROMPTS:
            assert self.engine.mirrored(prompt) <= len(self.engine.cached(prompt))

    def teardown(self) -> None:
        self.engine.pool.close()


TestMirrorAgainstVllm = MirrorAgainstVllm.TestCase
TestMirrorAgainstVllm.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.pool.close()


def test_a_prompt_is_told_of_once_its_forward_is_done_and_no_earlier(engine: Engine) -> None:
    request = engine.start("aaaa")
    assert request is not None
    assert engine.mirrored("aaaa") == 0
    engine.step(request)
    assert engine.mirrored("aaaab") == 4


def test_the_pool_shows_the_engines_blocks_as_hbm_and_hands_none_of_them_out(engine: Engine) -> None:
    request = engine.start("aaaa")
    assert request is not None
    engine.end(request)
    hbm, dram = engine.pool.stats().tiers
    assert (hbm.tier, hbm.num_blocks, hbm.num_cached) == (Tier.HBM, NUM_BLOCKS - 1, 4)
    assert (dram.tier, dram.num_cached) == (Tier.DRAM, 0)
    with engine.pool.match(tokens("aaaa")) as match:
        assert (match.num_tokens, match.addresses.blocks, match.num_engine_tokens) == (0, (), 16)


def test_an_engine_without_a_prefix_cache_is_not_mirrored() -> None:
    with MemPool(instance="off", block_size=BLOCK, block_bytes=4096, dram_bytes=4096, cluster="mirrortest") as pool:
        mirror = HbmMirror(pool.engine_blocks, block_size=BLOCK)
        mirror.bind(BlockPool(num_gpu_blocks=4, enable_caching=False, hash_block_size=BLOCK))
        mirror.ended("r", tokens("ab"), [1, 2], namespace=b"")
        mirror.step()
        assert [tier.tier for tier in pool.stats().tiers] == [Tier.DRAM]
