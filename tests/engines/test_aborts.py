"""A request that ends while its load is under way: vLLM frees its blocks itself, and only once."""

from collections.abc import Iterator

import pytest

from memserve.core.enums import CachingMode, Phase, TransferMode
from memserve.core.ids import RequestId
from memserve.wire.messages import RequestParams
from tests.engines.mini_engine import MiniEngine


@pytest.fixture
def engine() -> Iterator[MiniEngine]:
    made = MiniEngine("alone", caching=CachingMode.RETURN, transfer=TransferMode.BY_REQUEST)
    yield made
    made.close()


def params(name: str) -> RequestParams:
    return RequestParams(request=RequestId(name), phase=Phase.WHOLE)


def test_an_abort_during_the_load_leaves_the_blocks_to_vllm_and_frees_the_lease(engine: MiniEngine) -> None:
    prompt = list(range(100))
    engine.run("a", params("a"), prompt)
    side = engine.scheduler
    side.arrive(key="b", params=params("b"), tokens=prompt, namespace=b"")
    num_found = side.match(key="b", tokens=lambda: prompt, num_local_tokens=0)
    assert num_found == 96
    engine.blocks["b"] = [40, 41, 42, 43]
    side.allocated(key="b", engine_blocks=engine.blocks["b"], num_external_tokens=num_found)
    assert side.abort(key="b", engine_blocks=engine.blocks["b"]) is False
    engine.step_until(lambda: "b" in engine.loaded)
    assert "b" in engine.blocks  # never released by us: vLLM frees them when it hears of the load's end
    del engine.blocks["b"]
    engine.step_until(engine.is_idle)


def test_an_abort_before_anything_was_allocated_frees_the_lease(engine: MiniEngine) -> None:
    prompt = list(range(100))
    engine.run("a", params("a"), prompt)
    engine.scheduler.arrive(key="b", params=params("b"), tokens=prompt, namespace=b"")
    assert engine.scheduler.match(key="b", tokens=lambda: prompt, num_local_tokens=0) == 96
    assert engine.scheduler.abort(key="b", engine_blocks=[]) is False
    engine.step_until(engine.is_idle)


def test_a_prefix_that_is_deleted_while_its_continuation_is_saved_costs_only_the_cache(engine: MiniEngine) -> None:
    prompt = list(range(100))
    engine.run("a", params("a"), prompt)
    engine.admit("b", params("b"), [*prompt, *range(200, 300)])
    engine.compute("b", [0])
    engine.finish("b", [0])  # the save of the new blocks is ordered, on top of a leased prefix
    assert engine.pool.local.delete(prompt[:96]) > 0
    engine.step_until(lambda: "b" not in engine.blocks)
    engine.step_until(engine.is_idle)
    engine.pool.local.check()
