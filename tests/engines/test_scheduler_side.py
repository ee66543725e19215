"""The connector's decisions over a request's whole life, between two engines with real pools."""

from collections.abc import Iterator
from random import Random

import msgspec
import pytest

from memserve.config import ALL_PATHS
from memserve.core.enums import CachingMode, DataPath, Phase, TransferMode
from memserve.core.errors import TransferFailed
from memserve.core.ids import RequestId
from memserve.wire.messages import RequestParams
from tests.engines.mini_engine import BLOCK_SIZE, MiniEngine
from tests.engines.paged import BLOCK_BYTES, HEAD_BYTES
from tests.transport.paths import PATHS
from tests.transport.proxy import Fault, FaultyProxy, Kind


class Pair:
    """A prefill and a decode engine."""

    def __init__(
        self,
        caching: CachingMode,
        transfer: TransferMode,
        *,
        num_pool_blocks: int = 32,
        paths: tuple[DataPath, ...] = ALL_PATHS,
    ) -> None:
        make = {"caching": caching, "transfer": transfer, "num_pool_blocks": num_pool_blocks, "paths": paths}
        self.prefill = MiniEngine("prefill-0", **make)
        self.decode = MiniEngine("decode-0", **make)

    def prefill_params(self, request: str) -> RequestParams:
        return RequestParams(request=RequestId(request), phase=Phase.PREFILL, peer=self.decode.pool.info)

    def decode_params(self, request: str) -> RequestParams:
        return RequestParams(request=RequestId(request), phase=Phase.DECODE, peer=self.prefill.pool.info)

    def turn(self, request: str, prompt: list[int], output: list[int]) -> None:
        self.prefill.run(f"{request}-p", self.prefill_params(request), prompt)
        self.decode.run(f"{request}-d", self.decode_params(request), prompt, output)

    def settle(self) -> None:
        """Both sides hold nothing for anybody."""
        self.prefill.step_until(self.prefill.is_idle)
        self.decode.step_until(self.decode.is_idle)
        self.prefill.pool.local.check()
        self.decode.pool.local.check()

    def close(self) -> None:
        self.prefill.close()
        self.decode.close()


@pytest.fixture(params=list(TransferMode))
def transfer(request: pytest.FixtureRequest) -> TransferMode:
    return request.param


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> DataPath:
    return request.param


@pytest.fixture
def pair(transfer: TransferMode, path: DataPath) -> Iterator[Pair]:
    made = Pair(CachingMode.RETURN, transfer, paths=(path,))
    yield made
    made.close()


def tokens(seed: int, number: int) -> list[int]:
    random = Random(seed)
    return [random.randrange(50_000) for _ in range(number)]


@pytest.mark.parametrize("length", [1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 5 * BLOCK_SIZE, 5 * BLOCK_SIZE + 7])
def test_the_decode_engine_loads_exactly_the_bytes_that_the_prefill_engine_computed(pair: Pair, length: int) -> None:
    prompt = tokens(1, length)
    pair.prefill.admit("p", pair.prefill_params("r"), prompt)
    pair.prefill.compute("p", [0])
    computed = pair.prefill.kv("p", length)
    pair.prefill.finish("p", [0])
    pair.prefill.step_until(lambda: "p" not in pair.prefill.blocks)
    assert pair.decode.admit("d", pair.decode_params("r"), prompt) == length
    assert pair.decode.kv("d", length) == computed


@pytest.mark.parametrize("length", [1, BLOCK_SIZE - 1, BLOCK_SIZE, 3 * BLOCK_SIZE + 7])
@pytest.mark.parametrize("num_given", [1, 3])
def test_a_decode_that_continues_after_given_tokens_loads_what_was_computed_before_them(
    pair: Pair, length: int, num_given: int
) -> None:
    prompt, given = tokens(1, length), tokens(4, num_given)
    pair.prefill.admit("p", pair.prefill_params("r"), prompt)
    pair.prefill.compute("p", [0])
    computed = pair.prefill.kv("p", length)
    pair.prefill.finish("p", [0])
    pair.prefill.step_until(lambda: "p" not in pair.prefill.blocks)
    params = msgspec.structs.replace(pair.decode_params("r"), num_given=num_given)
    assert pair.decode.admit("d", params, [*prompt, *given]) == length
    assert pair.decode.kv("d", length) == computed
    pair.decode.compute("d", [0, 1])
    pair.decode.finish("d", [0, 1])
    pair.decode.step_until(lambda: "d" not in pair.decode.blocks)
    pair.settle()
    [report] = pair.decode.reported
    assert (report.prompt_tokens, report.received_tokens, report.computed_tokens) == (
        length + num_given, length, num_given
    )  # fmt: skip


def test_after_a_whole_request_nothing_is_held_and_the_counts_add_up(pair: Pair, path: DataPath) -> None:
    prompt = tokens(2, 3 * BLOCK_SIZE + 5)
    pair.turn("r", prompt, tokens(3, 40))
    pair.settle()
    (prefilled,), (decoded,) = pair.prefill.reported, pair.decode.reported
    assert (prefilled.computed_tokens, decoded.received_tokens, decoded.computed_tokens) == (101, 100, 1)
    assert prefilled.moved[0].num_tokens == 101
    assert prefilled.moved[0].num_bytes == 4 * BLOCK_BYTES
    assert {moved.path for moved in (*prefilled.moved, *decoded.moved)} == {path}
    assert prefilled.moved[0].num_blocks == 4
    assert decoded.moved[0].num_tokens == BLOCK_SIZE  # the block that the answer completed goes back


def test_the_next_turn_computes_and_moves_only_the_increment(pair: Pair) -> None:
    prompt, output = tokens(4, 100), tokens(5, 40)
    pair.turn("r1", prompt, output)
    pair.settle()
    follow_up = [*prompt, *output, *tokens(6, 20)]
    pair.turn("r2", follow_up, [0])
    assert pair.prefill.reported[1].dram_tokens == 128  # 139 tokens with KV, in whole blocks
    assert pair.prefill.reported[1].moved[0].num_tokens == 160 - 128


@pytest.mark.parametrize(
    ("caching", "held_at_prefill", "moved", "returned"),
    [
        (CachingMode.BASIC, 0, 160, 0),
        (CachingMode.PREFILL, 96, 160, 0),
        (CachingMode.BOTH, 96, 160 - 128, 0),
        (CachingMode.RETURN, 128, 160 - 128, 32),
    ],
)
def test_each_milestone_caches_and_moves_what_it_says(
    caching: CachingMode, held_at_prefill: int, moved: int, returned: int, transfer: TransferMode
) -> None:
    pair = Pair(caching, transfer)
    prompt, output = tokens(7, 100), tokens(8, 40)
    pair.turn("r1", prompt, output)
    pair.settle()
    pair.turn("r2", [*prompt, *output, *tokens(9, 20)], [0])
    assert pair.prefill.reported[1].dram_tokens == held_at_prefill
    assert pair.prefill.reported[1].moved[0].num_tokens == moved
    assert sum(m.num_tokens for m in pair.decode.reported[0].moved) == returned
    pair.settle()
    pair.close()


def test_a_prefill_that_is_aborted_gives_the_room_at_the_decode_engine_back(pair: Pair) -> None:
    pair.prefill.admit("p", pair.prefill_params("r"), tokens(10, 100))
    pair.prefill.step_until(lambda: not pair.decode.is_idle())
    pair.prefill.abort("p")
    pair.settle()
    assert "p" not in pair.prefill.blocks


def test_an_abort_in_the_middle_of_by_layer_sends_waits_for_the_copies() -> None:
    pair = Pair(CachingMode.RETURN, TransferMode.BY_LAYER)
    prompt = tokens(11, 100)
    pair.prefill.admit("p", pair.prefill_params("r"), prompt)
    pair.prefill.step({"p": 64})  # two of four blocks are on their way
    pair.prefill.abort("p")
    assert "p" in pair.prefill.blocks
    pair.settle()
    assert "p" not in pair.prefill.blocks
    pair.close()


def test_a_decode_that_is_aborted_before_its_load_frees_the_handoff(pair: Pair) -> None:
    pair.prefill.run("p", pair.prefill_params("r"), tokens(12, 100))
    pair.decode.scheduler.arrive(key="d", params=pair.decode_params("r"), tokens=tokens(12, 100), namespace=b"")
    pair.decode.abort("d")
    pair.settle()


def test_a_commit_that_fails_frees_the_room_and_the_decode_engine_recomputes(pair: Pair) -> None:
    pair.prefill.commit_error = TransferFailed("the receiver is gone")
    pair.prefill.run("p", pair.prefill_params("r"), tokens(13, 100))
    pair.settle()
    assert pair.prefill.reported[0].moved == ()
    assert pair.decode.admit("d", pair.decode_params("r"), tokens(13, 100)) == 0


@pytest.mark.parametrize("kind", [Kind.CUT, Kind.FLIP])
@pytest.mark.parametrize("after", [0, HEAD_BYTES, BLOCK_BYTES])
def test_a_network_that_breaks_costs_a_recomputation_and_nothing_else(
    transfer: TransferMode, kind: Kind, after: int
) -> None:
    pair = Pair(CachingMode.RETURN, transfer, paths=(DataPath.TCP,))
    proxy = FaultyProxy(pair.decode.pool.info.data, Fault(kind, after=after))
    through = msgspec.structs.replace(pair.decode.pool.info, data=proxy.endpoint)
    params = msgspec.structs.replace(pair.prefill_params("r"), peer=through)
    pair.prefill.run("p", params, tokens(20, 100))
    pair.settle()
    assert pair.prefill.reported[0].moved == ()
    assert pair.decode.admit("d", pair.decode_params("r"), tokens(20, 100)) == 0
    pair.close()
    proxy.close()


def test_auto_sends_the_first_prompts_by_layer_and_those_of_a_crowd_by_request() -> None:
    pair = Pair(CachingMode.BASIC, TransferMode.AUTO)
    names = [f"r{number}" for number in range(4)]
    for seed, name in enumerate(names):
        pair.prefill.admit(name, pair.prefill_params(name), tokens(30 + seed, 2 * BLOCK_SIZE))
    for name in names:
        pair.prefill.compute(name, [0])
        pair.prefill.finish(name, [0])
    pair.prefill.step_until(lambda: not pair.prefill.blocks)
    modes = {report.request: report.moved[0].mode for report in pair.prefill.reported}
    assert [modes[RequestId(name)] for name in names] == [*[TransferMode.BY_LAYER] * 3, TransferMode.BY_REQUEST]
    pair.close()


def test_engines_without_a_path_to_each_other_compute_for_themselves(transfer: TransferMode) -> None:
    pair = Pair(CachingMode.RETURN, transfer, paths=(DataPath.TCP,))
    unreachable = msgspec.structs.replace(pair.decode.pool.info, data="")
    params = msgspec.structs.replace(pair.prefill_params("r"), peer=unreachable)
    pair.prefill.run("p", params, tokens(21, 100))
    pair.settle()
    assert pair.prefill.reported[0].moved == ()
    pair.close()


def test_a_decode_engine_without_room_costs_a_recomputation_and_nothing_else(transfer: TransferMode) -> None:
    pair = Pair(CachingMode.BASIC, transfer, num_pool_blocks=2)
    pair.prefill.run("p", pair.prefill_params("r"), tokens(14, 100))
    assert pair.decode.admit("d", pair.decode_params("r"), tokens(14, 100)) == 0
    pair.close()


def test_another_prompt_under_the_same_request_id_gets_nothing(pair: Pair) -> None:
    pair.prefill.run("p", pair.prefill_params("r"), tokens(15, 100))
    assert pair.decode.admit("d", pair.decode_params("r"), tokens(16, 100)) == 0


def test_a_preempted_prefill_is_sent_again_from_its_start() -> None:
    pair = Pair(CachingMode.BOTH, TransferMode.BY_LAYER)
    prompt = tokens(17, 100)
    pair.prefill.admit("p", pair.prefill_params("r"), prompt)
    pair.prefill.step({"p": 64})
    pair.prefill.step(preempted=("p",))
    assert pair.prefill.scheduler.match(key="p", tokens=lambda: prompt, num_local_tokens=0) == 0
    pair.prefill.compute("p", [0])
    computed = pair.prefill.kv("p", 100)
    pair.prefill.finish("p", [0])
    pair.prefill.step_until(lambda: "p" not in pair.prefill.blocks)
    pair.decode.admit("d", pair.decode_params("r"), prompt)
    assert pair.decode.kv("d", 100) == computed
    pair.close()


def test_an_engine_alone_finds_in_dram_what_an_earlier_request_left(transfer: TransferMode) -> None:
    engine = MiniEngine("alone", caching=CachingMode.RETURN, transfer=transfer)
    prompt = tokens(18, 100)
    engine.run("a", RequestParams(request=RequestId("a"), phase=Phase.WHOLE), prompt, [0])
    engine.admit("b", RequestParams(request=RequestId("b"), phase=Phase.WHOLE), [*prompt[:64], *tokens(19, 50)])
    assert engine.scheduler.load().num_running == 1
    engine.compute("b", [0])
    engine.finish("b", [0])
    engine.step_until(lambda: "b" not in engine.blocks)
    assert engine.reported[1].dram_tokens == 64
    engine.close()
