"""What was written at one tensor-parallel size is read at another: bytes checked against the unsharded tensor."""

from collections.abc import Callable, Iterator
from contextlib import closing
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm.v1.kv_cache_layout import KVCacheLayout

from memserve.config import ALL_PATHS
from memserve.core.enums import CachingMode, DataPath, Phase, TransferMode
from memserve.core.errors import ConfigError
from memserve.core.ids import RequestId
from memserve.engines.vllm.block_copies import BlockCopies, DeviceCopies, block_copies
from memserve.engines.vllm.block_layout import BlockLayout, rank_share
from memserve.engines.vllm.layout import EngineMemory
from memserve.wire.messages import RequestParams
from tests.engines.mini_engine import MiniEngine
from tests.engines.paged import BLOCK_SIZE, HEAD_SIZE, paged_memory

SIZES = st.sampled_from([1, 2, 4])
BLOCK = 3


def unsharded(memory: EngineMemory) -> torch.Tensor:
    """Every byte of a block with all heads; its value tells layer, head and place."""
    layout = memory.layout
    layers = torch.arange(layout.num_layers).view(-1, 1, 1) * 101
    heads = torch.arange(layout.num_heads).view(1, -1, 1) * 37
    return ((layers + heads + torch.arange(layout.head_bytes)) % 251).to(torch.uint8)


def heads_of(memory: EngineMemory) -> torch.Tensor:
    """Bytes of BLOCK in this rank's tensors: [layers, heads, bytes]."""
    return torch.cat([pages[:, BLOCK].flatten(2) for pages in memory.pages])


@given(
    sizes=st.tuples(SIZES, SIZES),
    num_layers=st.integers(1, 4),
    num_kv_heads=st.sampled_from([1, 2, 4, 8]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float8_e4m3fn]),
    layouts=st.tuples(st.sampled_from(list(KVCacheLayout)), st.sampled_from(list(KVCacheLayout))),
)
def test_a_block_written_at_one_size_is_read_at_another(
    sizes: tuple[int, int],
    num_layers: int,
    num_kv_heads: int,
    dtype: torch.dtype,
    layouts: tuple[KVCacheLayout, KVCacheLayout],
) -> None:
    shape = {"num_layers": num_layers, "num_kv_heads": num_kv_heads, "dtype": dtype}
    senders, receivers = (
        [paged_memory(rank=rank, num_ranks=size, layout=layout, **shape) for rank in range(size)]
        for size, layout in zip(sizes, layouts, strict=True)
    )
    whole = unsharded(senders[0])
    for memory in senders:
        part = whole[:, memory.share.first_head : memory.share.end_head]
        for pages in memory.pages:
            pages[:, BLOCK].copy_(part.reshape(pages[:, BLOCK].shape))
    block = torch.zeros(senders[0].layout.block_bytes, dtype=torch.uint8)
    for memory in senders:
        if memory.share.is_writer:
            memory.write_out(BLOCK, block)
    assert torch.equal(block, whole.flatten())
    for memory in receivers:
        memory.read_in(BLOCK, block)
        assert torch.equal(heads_of(memory), whole[:, memory.share.first_head : memory.share.end_head])


@given(num_ranks=SIZES, num_kv_heads=st.sampled_from([1, 2, 4]))
def test_pages_sent_one_by_one_make_the_same_block(num_ranks: int, num_kv_heads: int) -> None:
    ranks = [paged_memory(rank=r, num_ranks=num_ranks, num_kv_heads=num_kv_heads) for r in range(num_ranks)]
    at_once, by_layer, paged = (torch.zeros(ranks[0].layout.block_bytes, dtype=torch.uint8) for _ in range(3))
    for memory in ranks:
        memory.write_out(BLOCK, at_once)
        for layer in memory.layers:
            memory.write_out_layer(layer, BLOCK, by_layer)
            start = memory.page_offset(layer)
            memory.write_out_page(layer, BLOCK, paged[start : start + memory.page_bytes])
    assert torch.equal(by_layer, at_once)
    assert torch.equal(paged, at_once)


@pytest.mark.parametrize("layout", [KVCacheLayout.LBHNC, KVCacheLayout.LBNHC])
def test_a_backend_that_splits_blocks_into_runs_of_tokens_gives_whole_heads(layout: KVCacheLayout) -> None:
    memory = paged_memory(layout=layout, run_size=BLOCK_SIZE // 2, num_kv_heads=2)
    block = torch.zeros(memory.layout.block_bytes, dtype=torch.uint8)
    memory.write_out(BLOCK, block)
    assert memory.pages[0].shape[2:] == (2, 2, BLOCK_SIZE // 2, 2 * HEAD_SIZE * 4)
    assert torch.equal(block.view(heads_of(memory).shape), heads_of(memory))


@given(num_ranks=st.sampled_from([1, 2, 4, 8, 16]), num_heads=st.sampled_from([1, 2, 4, 8, 16]))
def test_every_head_has_exactly_one_writer_and_every_rank_as_many_heads(num_ranks: int, num_heads: int) -> None:
    shares = [rank_share(rank=rank, num_ranks=num_ranks, num_heads=num_heads) for rank in range(num_ranks)]
    written = [head for s in shares if s.is_writer for head in range(s.first_head, s.end_head)]
    assert written == list(range(num_heads))
    assert {share.num_heads for share in shares} == {max(1, num_heads // num_ranks)}


@pytest.mark.parametrize(("rank", "num_ranks", "num_heads"), [(0, 3, 4), (0, 4, 6), (2, 2, 4), (-1, 2, 4), (0, 1, 0)])
def test_numbers_that_do_not_divide_are_refused_with_a_way_out(rank: int, num_ranks: int, num_heads: int) -> None:
    with pytest.raises(ConfigError, match="choose a tensor-parallel size"):
        rank_share(rank=rank, num_ranks=num_ranks, num_heads=num_heads)


def test_the_size_of_a_block_does_not_depend_on_the_number_of_ranks() -> None:
    layouts = {paged_memory(num_ranks=size).layout for size in (1, 2, 4)}
    assert layouts == {BlockLayout(num_layers=3, num_heads=4, head_bytes=BLOCK_SIZE * 2 * HEAD_SIZE * 4)}


# ------------------------------------------------------------ through both halves of the connector


class Pair:
    """A prefill and a decode engine of different sizes."""

    def __init__(
        self,
        sizes: tuple[int, int],
        transfer: TransferMode,
        path: DataPath,
        copies: Callable[[EngineMemory], BlockCopies] = block_copies,
    ) -> None:
        make = {"caching": CachingMode.RETURN, "transfer": transfer, "paths": (path,), "copies": copies}
        self.prefill = MiniEngine("prefill-0", num_ranks=sizes[0], **make)
        self.decode = MiniEngine("decode-0", num_ranks=sizes[1], **make)

    def params(self, phase: Phase) -> RequestParams:
        peer = self.decode if phase is Phase.PREFILL else self.prefill
        return RequestParams(request=RequestId("r"), phase=phase, peer=peer.pool.info)

    def close(self) -> None:
        self.prefill.close()
        self.decode.close()


@pytest.fixture(params=[(p, d) for p in (1, 2, 4) for d in (1, 2, 4)], ids=lambda sizes: f"TP{sizes[0]}-TP{sizes[1]}")
def sizes(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(params=ALL_PATHS)
def path(request: pytest.FixtureRequest) -> DataPath:
    return request.param


@pytest.fixture(params=list(TransferMode))
def pair(request: pytest.FixtureRequest, sizes: tuple[int, int], path: DataPath) -> Iterator[Pair]:
    made = Pair(sizes, request.param, path)
    yield made
    made.close()


def test_kv_goes_to_an_engine_of_another_size_and_back(pair: Pair) -> None:
    there_and_back(pair)


@pytest.mark.parametrize("transfer", list(TransferMode))
def test_kv_goes_there_and_back_through_staging_memory_as_on_a_gpu(transfer: TransferMode, path: DataPath) -> None:
    with closing(Pair((2, 1), transfer, path, copies=DeviceCopies)) as pair:
        there_and_back(pair)


def there_and_back(pair: Pair) -> None:
    random = Random(1)
    prompt = [random.randrange(50_000) for _ in range(3 * BLOCK_SIZE + 7)]
    answer = [random.randrange(50_000) for _ in range(BLOCK_SIZE)]
    pair.prefill.admit("p", pair.params(Phase.PREFILL), prompt)
    pair.prefill.compute("p", [0])
    computed = pair.prefill.kv("p", len(prompt))
    pair.prefill.finish("p", [0])
    pair.prefill.step_until(lambda: "p" not in pair.prefill.blocks)
    assert pair.decode.admit("d", pair.params(Phase.DECODE), prompt) == len(prompt)
    assert pair.decode.kv("d", len(prompt)) == computed
    pair.decode.compute("d", answer)
    num_whole = (len(prompt) + len(answer) - 1) // BLOCK_SIZE * BLOCK_SIZE
    decoded = pair.decode.kv("d", num_whole)
    pair.decode.finish("d", answer)
    pair.decode.step_until(lambda: "d" not in pair.decode.blocks)
    turn = [*prompt, *answer, 1]
    again = RequestParams(request=RequestId("next"), phase=Phase.WHOLE)
    assert pair.prefill.admit("next", again, turn) == num_whole
    assert pair.prefill.kv("next", num_whole) == decoded


# ------------------------------------------------------------ a hit is what all ranks have


PROMPT = [Random(2).randrange(50_000) for _ in range(2 * BLOCK_SIZE)]


@pytest.fixture
def two_ranks() -> Iterator[Pair]:
    made = Pair((2, 2), TransferMode.BY_REQUEST, DataPath.SHM)
    yield made
    made.close()


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_rank_could_not_save_is_a_hit_for_none(two_ranks: Pair, rank: int) -> None:
    engine, alone = two_ranks.prefill, RequestParams(request=RequestId("r"), phase=Phase.WHOLE)
    engine.blind_ranks = {rank}
    engine.run("a", alone, PROMPT)
    assert engine.admit("b", alone, PROMPT) == 0
    engine.blind_ranks = set()
    engine.run("c", alone, [*PROMPT, 1])
    engine.pool.local.check()
    assert engine.admit("d", alone, [*PROMPT, 1]) == len(PROMPT)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_rank_could_not_hand_over_is_a_hit_for_none(two_ranks: Pair, rank: int) -> None:
    two_ranks.prefill.blind_ranks = {rank}
    two_ranks.prefill.run("p", two_ranks.params(Phase.PREFILL), PROMPT)
    assert two_ranks.decode.admit("d", two_ranks.params(Phase.DECODE), PROMPT) == 0
    two_ranks.decode.step_until(lambda: two_ranks.decode.pool.stats().num_transfers_open == 0)


def test_blocks_that_one_rank_could_not_load_are_computed_by_all(two_ranks: Pair) -> None:
    two_ranks.prefill.run("p", two_ranks.params(Phase.PREFILL), PROMPT)
    two_ranks.decode.blind_ranks = {1}
    assert two_ranks.decode.admit("d", two_ranks.params(Phase.DECODE), PROMPT) == len(PROMPT)
    assert two_ranks.decode.bad_blocks == set(two_ranks.decode.blocks["d"][:2])
