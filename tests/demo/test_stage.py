"""The demo's two halves against servers that answer without a model."""

from contextlib import AbstractAsyncContextManager

import pytest

from memserve.core.clock import SystemClock
from memserve.core.errors import InstanceUnavailable
from memserve.demo.script import Scene
from memserve.demo.stage import Served, Stage
from tests.demo.fake_server import FakeServer

SCENES = (
    Scene(conversation=1, name="a", system="Be brief.", human=("Hello?", "And then?", "Why?")),
    Scene(conversation=2, name="b", system="Be brief.", human=("Good morning.",)),
)


class Diary:
    """A Progress that keeps what it was told."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int]] = []
        self.steps: list[str] = []

    def phase(self, text: str, *, steps: int) -> None:
        self.phases.append((text, steps))

    def step(self, text: str) -> None:
        self.steps.append(text)


def stage(ours: FakeServer, plain: FakeServer, diary: Diary | None = None) -> Stage:
    def start_ours() -> AbstractAsyncContextManager[Served]:
        return ours.serve()

    return Stage(ours=start_ours, plain=plain.serve, clock=SystemClock(), progress=diary or Diary())


async def test_the_same_answers_on_both_servers_count_as_identical() -> None:
    report = await stage(FakeServer(), FakeServer()).run(SCENES)
    assert report.tokens_identical
    assert report.num_identical == len(report.turns) == 4
    assert [(row.conversation, row.turn) for row in report.turns] == [(1, 1), (1, 2), (1, 3), (2, 1)]


@pytest.mark.parametrize("tells_ids", [True, False])
async def test_a_server_that_answers_otherwise_is_found_out(tells_ids: bool) -> None:
    report = await stage(FakeServer(tells_ids=tells_ids), FakeServer(odd=True, tells_ids=tells_ids)).run(SCENES)
    assert not report.tokens_identical
    assert report.num_identical == 0


async def test_plain_vllm_gets_exactly_the_requests_that_the_cluster_got() -> None:
    ours, plain = FakeServer(), FakeServer(odd=True)
    await stage(ours, plain).run(SCENES)
    assert plain.bodies == ours.bodies


async def test_each_turn_carries_the_answers_before_it_and_each_conversation_starts_anew() -> None:
    ours = FakeServer()
    await stage(ours, FakeServer()).run(SCENES)
    roles = [[message["role"] for message in body["messages"]] for body in ours.bodies]  # type: ignore[attr-defined]
    assert roles[2] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert roles[3] == ["system", "user"]
    assert {(body["temperature"], body["stream"]) for body in ours.bodies} == {(0, True)}


async def test_a_row_tells_what_both_instances_reported_though_one_report_comes_late() -> None:
    report = await stage(FakeServer(), FakeServer()).run(SCENES)
    row = report.turns[1]
    assert (row.prompt_tokens, row.cached_hbm_tokens, row.cached_dram_tokens, row.computed_tokens) == (200, 0, 128, 72)
    assert (row.moved_blocks, row.moved_bytes, row.moved_path) == (2, 2000, "shm")
    assert (row.returned_blocks, row.returned_tokens, row.decode_computed_tokens) == (1, 128, 1)


async def test_progress_counts_every_turn_twice() -> None:
    diary = Diary()
    await stage(FakeServer(), FakeServer(), diary).run(SCENES)
    assert [steps for _, steps in diary.phases] == [0, 4, 0, 4]
    assert len(diary.steps) == 8


async def test_a_server_that_refuses_ends_the_demo_with_its_own_words() -> None:
    with pytest.raises(InstanceUnavailable, match=r"demo-1-1 failed: .*no active instance"):
        await stage(FakeServer(fails=True), FakeServer()).run(SCENES)
