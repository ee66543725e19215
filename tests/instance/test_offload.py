"""What a pool has no room for goes to a memory instance, and comes back from there as any other pull."""

import msgspec
import pytest

from memserve.config import Watermarks
from memserve.core.ids import Incarnation, InstanceId
from memserve.instance.mempool import MemPool
from memserve.wire.identity import KvIdentity
from tests.instance.conftest import BLOCK_BYTES, BLOCK_SIZE, MakePool, eventually
from tests.instance.contents import PROMPT_BLOCKS, contents, prompt

MARKS = Watermarks(low=0.3, high=0.5)


def data(number: int) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in prompt(number))


def hold(pool: MemPool, number: int) -> None:
    blocks = pool.alloc_mem(PROMPT_BLOCKS)
    pool.write(blocks, contents(number))
    pool.insert(prompt(number), blocks)


def num_held(pool: MemPool, number: int) -> int:
    with pool.match(prompt(number)) as match:
        return match.num_tokens // BLOCK_SIZE


@pytest.fixture
def a(make_pool: MakePool) -> MemPool:
    return make_pool("a", dram_bytes=3 * PROMPT_BLOCKS * BLOCK_BYTES, marks=MARKS)


@pytest.fixture
def memory(make_pool: MakePool) -> MemPool:
    return make_pool("m", dram_bytes=64 * BLOCK_BYTES)


def test_what_dram_wants_least_is_taken_by_the_memory_instance_and_dropped_here(a: MemPool, memory: MemPool) -> None:
    a.offload.use([memory.info])
    for number in range(6):
        eventually(lambda: a.stats().tiers[0].num_free >= PROMPT_BLOCKS)
        hold(a, number)
    eventually(lambda: a.stats().tiers[0].num_free >= 2 * PROMPT_BLOCKS)
    assert num_held(a, 0) == 0
    assert all(num_held(memory, number) + num_held(a, number) >= PROMPT_BLOCKS for number in range(6))
    assert a.offload.num_offloaded >= 4 * PROMPT_BLOCKS
    a.local.check()
    with memory.match(prompt(0)) as match:
        assert memory.read(match.addresses) == contents(0)


def test_it_comes_back_as_a_pull(a: MemPool, memory: MemPool) -> None:
    hold(memory, 1)
    assert a.pull(memory.info, data(1)).result() == len(prompt(1))
    with a.match(prompt(1)) as match:
        assert a.read(match.addresses) == contents(1)


def test_without_a_memory_instance_nothing_leaves(a: MemPool) -> None:
    hold(a, 1)
    hold(a, 2)
    a.offload.use([])
    assert (num_held(a, 1), num_held(a, 2)) == (PROMPT_BLOCKS, PROMPT_BLOCKS)


def test_one_that_is_gone_costs_nothing_and_the_next_one_is_asked(
    a: MemPool, memory: MemPool, make_pool: MakePool
) -> None:
    other = make_pool("m0", dram_bytes=8 * BLOCK_BYTES).info
    a.offload.use([msgspec.structs.replace(other, incarnation=Incarnation(1)), memory.info])
    for number in range(2):
        hold(a, number)
    eventually(lambda: num_held(memory, 0) == PROMPT_BLOCKS)
    eventually(lambda: num_held(a, 0) == 0)
    a.local.check()


def test_one_of_another_model_takes_nothing_and_nothing_is_lost(a: MemPool, make_pool: MakePool) -> None:
    identity = KvIdentity(
        model="other", dtype="bytes", engine="none", backend="none",
        block_size=BLOCK_SIZE, block_bytes=BLOCK_BYTES, num_layers=1,
    )  # fmt: skip
    other = make_pool("other", dram_bytes=64 * BLOCK_BYTES, identity=identity)
    a.offload.use([other.info])
    hold(a, 1)
    hold(a, 2)
    eventually(lambda: a.offload.num_refused > 0)
    assert (num_held(a, 1), num_held(a, 2)) == (PROMPT_BLOCKS, PROMPT_BLOCKS)


def test_prompts_that_begin_alike_go_to_the_same_instance(a: MemPool, make_pool: MakePool) -> None:
    memories = [make_pool(name, dram_bytes=64 * BLOCK_BYTES) for name in ("m1", "m2", "m3")]
    a.offload.use([memory.info for memory in memories])
    shared = prompt(0)
    hold(a, 0)
    tail = a.alloc_mem(PROMPT_BLOCKS)
    a.insert(
        [*shared, *prompt(5)],
        type(tail)(
            instance=InstanceId("a"),
            incarnation=tail.incarnation,
            blocks=(*a.match(shared).addresses.blocks, *tail.blocks),
        ),
    )
    eventually(lambda: a.offload.num_offloaded >= PROMPT_BLOCKS)
    holders = [memory.info.instance for memory in memories if num_held(memory, 0)]
    assert len(holders) == 1
