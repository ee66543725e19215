"""One engine takes what another one computed instead of computing it, when it is told who holds it."""

from collections.abc import Iterator
from random import Random

import pytest

from memserve.config import ALL_PATHS
from memserve.core.enums import CachingMode, DataPath, Phase, TransferMode
from memserve.core.ids import RequestId
from memserve.wire.messages import PeerInfo, RequestParams
from tests.engines.mini_engine import BLOCK_SIZE, MiniEngine

PROMPT = [Random(5).randrange(50_000) for _ in range(4 * BLOCK_SIZE + 7)]


def whole(request: str, source: PeerInfo | None = None) -> RequestParams:
    return RequestParams(request=RequestId(request), phase=Phase.WHOLE, source=source)


def engine(name: str, path: DataPath, *, caching: CachingMode = CachingMode.RETURN) -> MiniEngine:
    return MiniEngine(name, caching=caching, transfer=TransferMode.BY_REQUEST, paths=(path,))


def num_cached(of: MiniEngine) -> int:
    with of.pool.match(PROMPT) as match:
        return match.num_tokens


@pytest.fixture(params=ALL_PATHS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[MiniEngine, MiniEngine]]:
    """The first one has computed the prompt."""
    a, b = engine("a", request.param), engine("b", request.param)
    a.run("first", whole("first"), PROMPT)
    yield a, b
    b.close()
    a.close()


def test_what_another_engine_computed_is_loaded_with_the_same_bytes(pair: tuple[MiniEngine, MiniEngine]) -> None:
    a, b = pair
    assert a.admit("again", whole("again"), PROMPT) == 4 * BLOCK_SIZE
    assert b.admit("pulled", whole("pulled", a.pool.info), PROMPT) == 4 * BLOCK_SIZE
    assert b.kv("pulled", 4 * BLOCK_SIZE) == a.kv("again", 4 * BLOCK_SIZE)


def test_a_prompt_is_pulled_while_its_answer_is_still_produced() -> None:
    a, b = engine("a", DataPath.SHM), engine("b", DataPath.SHM)
    a.admit("asked", whole("asked"), PROMPT)
    a.compute("asked", [1, 2, 3])
    a.step_until(lambda: num_cached(a) == 4 * BLOCK_SIZE)
    assert b.admit("pulled", whole("pulled", a.pool.info), PROMPT) == 4 * BLOCK_SIZE
    assert b.kv("pulled", 4 * BLOCK_SIZE) == a.kv("asked", 4 * BLOCK_SIZE)
    a.finish("asked", [1, 2, 3])
    a.step_until(a.is_idle)
    b.close()
    a.close()


def test_an_answer_is_saved_behind_its_prompt_which_is_not_copied_twice() -> None:
    a = engine("a", DataPath.SHM)
    answer = list(range(BLOCK_SIZE))
    a.admit("asked", whole("asked"), PROMPT)
    a.compute("asked", answer[:1])
    scheduled = {"asked": (a.blocks["asked"], len(PROMPT) + 1)}
    late = a.scheduler.plan_step(scheduled=scheduled, preempted=())
    a.finish("asked", answer)
    assert [len(job.arena_blocks) for job in late.jobs] == [4]
    assert a.pool.stats().tiers[0].num_reserved == 4, "nothing more is ordered while the prompt is copied"
    for worker in a.workers:
        worker.begin_step(late)
    a.step_until(a.is_idle)
    with a.pool.match([*PROMPT, *answer]) as match:
        assert match.num_tokens == 5 * BLOCK_SIZE
    a.close()


def test_the_report_tells_what_was_pulled_and_how_it_came(pair: tuple[MiniEngine, MiniEngine]) -> None:
    a, b = pair
    b.run("local", whole("local"), PROMPT[: BLOCK_SIZE + 1])
    b.run("pulled", whole("pulled", a.pool.info), PROMPT)
    report = b.reported[-1]
    assert (report.dram_tokens, report.pulled_tokens, report.computed_tokens) == (4 * BLOCK_SIZE, 3 * BLOCK_SIZE, 7)
    [moved] = report.moved
    assert (moved.source, moved.target, moved.num_blocks, moved.num_tokens) == ("a", "b", 3, 3 * BLOCK_SIZE)
    assert moved.num_bytes == 3 * a.pool.info.identity.block_bytes
    assert moved.seconds > 0
    assert b.is_idle()
    a.step_until(a.is_idle)


def test_a_holder_that_is_gone_costs_a_recomputation(pair: tuple[MiniEngine, MiniEngine]) -> None:
    a, b = pair
    a.pool.close()
    assert b.admit("alone", whole("alone", a.pool.info), PROMPT) == 0
    assert b.scheduler.load().num_running == 1


def test_a_request_that_is_aborted_while_it_is_pulled_leaves_nothing_but_the_cache(
    pair: tuple[MiniEngine, MiniEngine],
) -> None:
    a, b = pair
    b.scheduler.arrive(key="left", params=whole("left", a.pool.info), tokens=PROMPT, namespace=b"")
    b.abort("left")
    b.step_until(lambda: num_cached(b) == 4 * BLOCK_SIZE)
    assert b.scheduler.load().num_waiting == 0
    b.step_until(b.is_idle)


def test_an_engine_that_caches_nothing_pulls_nothing() -> None:
    a, b = engine("a", DataPath.SHM), engine("b", DataPath.SHM, caching=CachingMode.BASIC)
    a.run("first", whole("first"), PROMPT)
    assert b.admit("plain", whole("plain", a.pool.info), PROMPT) == 0
    assert b.pool.num_control_calls(a.pool.info) == 0
    b.close()
    a.close()
