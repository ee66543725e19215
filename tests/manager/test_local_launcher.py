"""Supervised children: started again when they end, with growing waits, until they are stopped or given up."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from children import alive, processes, spec, until

from memserve.cluster.restarts import RestartRules
from memserve.core.clock import SystemClock
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.manager.launcher import InstanceEnded
from memserve.manager.local_launcher import LocalLauncher
from memserve.manager.machine import Machine

NAME = InstanceId("colocated-0")
MakeLauncher = Callable[..., LocalLauncher]


@pytest.fixture
def ends() -> list[InstanceEnded]:
    return []


@pytest.fixture
async def make_launcher(ends: list[InstanceEnded]) -> AsyncIterator[MakeLauncher]:
    made: list[LocalLauncher] = []

    def make(**rules: float) -> LocalLauncher:
        wanted = RestartRules(**{"first_wait_s": 0.01, **rules})  # type: ignore[arg-type]
        made.append(LocalLauncher(machine=Machine.here(), rules=wanted, clock=SystemClock(), on_end=ends.append))
        return made[-1]

    yield make
    for launcher in made:
        await launcher.close()


async def test_one_that_ends_is_started_again_with_growing_waits_and_then_given_up_with_the_reason(
    make_launcher: MakeLauncher, ends: list[InstanceEnded], tmp_path: Path
) -> None:
    launcher = make_launcher(max_restarts=2)
    await launcher.start(spec(tmp_path, say="ValueError: no such thing", exit_code=3))
    await until(lambda: NAME not in launcher.specs, "it was given up")
    assert [(end.restart_in_s, end.num_restarts) for end in ends] == [(0.01, 1), (0.02, 2), (None, 2)]
    assert all(end.why.startswith("ValueError: no such thing (exit code 3); its log is ") for end in ends)


async def test_what_an_earlier_life_wrote_is_not_the_reason_of_a_later_end(
    make_launcher: MakeLauncher, ends: list[InstanceEnded], tmp_path: Path
) -> None:
    one = spec(tmp_path)
    await asyncio.to_thread(Path(one.log).write_text, "ValueError: of an earlier life\n")
    launcher = make_launcher(max_restarts=0)
    await launcher.start(one)
    os.kill((await processes(one))[0], signal.SIGKILL)
    await until(lambda: ends, "the end was told")
    assert "earlier life" not in ends[0].why
    assert "SIGKILL" in ends[0].why


async def test_one_that_is_stopped_is_not_started_again(
    make_launcher: MakeLauncher, ends: list[InstanceEnded], tmp_path: Path
) -> None:
    launcher, one = make_launcher(), spec(tmp_path)
    await launcher.start(one)
    pids = await processes(one)
    await launcher.stop(NAME)
    await launcher.stop(NAME)
    assert (alive(pids), list(launcher.specs), ends) == ([], [], [])


async def test_one_that_waits_to_be_started_again_can_be_stopped(
    make_launcher: MakeLauncher, ends: list[InstanceEnded], tmp_path: Path
) -> None:
    launcher = make_launcher(first_wait_s=3600.0, longest_wait_s=3600.0)
    await launcher.start(spec(tmp_path, exit_code=1))
    await until(lambda: ends, "the end was told")
    assert list(launcher.specs) == [NAME]
    async with asyncio.timeout(5):
        await launcher.stop(NAME)
    assert list(launcher.specs) == []


async def test_one_that_stands_still_is_killed_at_once_by_its_guard_and_started_again(
    make_launcher: MakeLauncher, ends: list[InstanceEnded], tmp_path: Path
) -> None:
    launcher, one = make_launcher(), spec(tmp_path, stubborn=1, children=1)
    await launcher.start(one)
    pids = await processes(one)
    os.kill(pids[0], signal.SIGSTOP)
    launcher.fence(NAME)
    await until(lambda: not alive(pids), "the whole group is gone", deadline_s=4)
    await until(lambda: ends, "the end was told")
    assert "SIGKILL" in ends[0].why
    assert ends[0].restart_in_s == 0.01


async def test_a_name_runs_once(make_launcher: MakeLauncher, tmp_path: Path) -> None:
    launcher = make_launcher()
    await launcher.start(spec(tmp_path))
    with pytest.raises(ConfigError, match="colocated-0 runs here already"):
        await launcher.start(spec(tmp_path))
