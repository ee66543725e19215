"""Real children under real guards: nobody outlives whoever should have ended it."""

import asyncio
import json
import mmap
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from children import alive, leaving_nothing, processes, spec, until

from memserve.core.errors import ConfigError
from memserve.manager.child import start
from memserve.manager.guard import command
from memserve.manager.machine import Machine

HERE = Machine.here()


async def test_a_childs_exit_code_and_reason_are_told(tmp_path: Path) -> None:
    child = await start(spec(tmp_path, say="ValueError: no such thing", exit_code=3), HERE)
    assert await child.wait() == 3
    assert (await child.why_it_ended()).startswith("ValueError: no such thing (exit code 3); its log is /")


async def test_a_command_that_does_not_exist_is_the_reason(tmp_path: Path) -> None:
    one = spec(tmp_path)
    child = await start(msgspec.structs.replace(one, argv=("/no/such/program",)), HERE)
    assert await child.wait() == 127
    assert "cannot start /no/such/program: No such file or directory" in await child.why_it_ended()


async def test_a_log_that_cannot_be_written_is_a_setting_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot start colocated-0"):
        await start(spec(tmp_path / "file"), HERE)


async def test_stop_ends_a_child_and_its_helpers(tmp_path: Path) -> None:
    one = spec(tmp_path, children=2)
    child = await start(one, HERE)
    pids = await processes(one)
    async with leaving_nothing(pids):
        await child.stop()
        await child.stop()
        await until(lambda: not alive(pids), "the whole group is gone")


async def test_a_child_that_ignores_sigterm_is_gone_within_ten_seconds(tmp_path: Path) -> None:
    one = spec(tmp_path, stubborn=1, children=1)
    child = await start(one, HERE)
    pids = await processes(one)
    async with leaving_nothing(pids), asyncio.timeout(10):
        await child.stop()
        await until(lambda: not alive(pids), "the whole group is gone")


async def test_helpers_that_outlive_their_instance_are_ended(tmp_path: Path) -> None:
    one = spec(tmp_path, children=2)
    child = await start(one, HERE)
    pids = await processes(one)
    async with leaving_nothing(pids):
        os.kill(pids[0], signal.SIGKILL)
        assert await child.wait() == 128 + signal.SIGKILL
        await until(lambda: not alive(pids), "the whole group is gone")


@pytest.fixture
def cluster() -> Iterator[str]:
    """Name of a cluster with two instances' files in shared memory."""
    name = uuid.uuid4().hex
    for owner in ("colocated-1", "colocated-10"):
        memory_of(name, owner).write_bytes(b"kv")
    yield name
    for owner in ("colocated-1", "colocated-10"):
        memory_of(name, owner).unlink(missing_ok=True)


def memory_of(cluster: str, owner: str) -> Path:
    return Path(f"/dev/shm/memserve-{cluster}-{owner}-77")  # noqa: S108


def owners(cluster: str) -> list[str]:
    return [owner for owner in ("colocated-1", "colocated-10") if memory_of(cluster, owner).exists()]


def prefix_of(cluster: str) -> str:
    return str(memory_of(cluster, "colocated-1")).removesuffix("77")


async def test_shared_memory_of_an_ended_child_is_removed_and_no_other(tmp_path: Path, cluster: str) -> None:
    child = await start(spec(tmp_path, memory=prefix_of(cluster), exit_code=0), HERE)
    await child.wait()
    assert owners(cluster) == ["colocated-10"]


async def test_a_guard_that_is_killed_takes_its_instance_along(tmp_path: Path, cluster: str) -> None:
    one = spec(tmp_path, memory=prefix_of(cluster))
    child = await start(one, HERE)
    pids = await processes(one)
    async with leaving_nothing(pids):
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        await until(lambda: not alive(pids), "the instance is gone")
        assert owners(cluster) == ["colocated-10"]


async def test_what_an_engine_has_in_shared_memory_goes_with_it_unless_others_use_it(tmp_path: Path) -> None:
    name = uuid.uuid4().hex
    engines, shared, pools = (Path(f"/dev/shm/{kind}-{name}") for kind in ("engine", "both", "memserve-peer"))  # noqa: S108
    for path in (engines, shared, pools):
        path.write_bytes(b"kv")
    one = spec(tmp_path, maps=[str(engines), str(shared), str(pools)])
    child = await start(one, HERE)
    pids = await processes(one)
    try:
        async with leaving_nothing(pids):
            with shared.open("r+b") as file, mmap.mmap(file.fileno(), 0):
                await child.stop()
                assert [path.exists() for path in (engines, shared, pools)] == [False, True, True]
    finally:
        for path in (engines, shared, pools):
            path.unlink(missing_ok=True)


@pytest.fixture
def engines_file() -> Iterator[Path]:
    """In shared memory, under a name that nobody knows beforehand."""
    path = Path(f"/dev/shm/engine-{uuid.uuid4().hex}")  # noqa: S108
    path.write_bytes(b"kv")
    yield path
    path.unlink(missing_ok=True)


async def test_what_workers_of_a_killed_engine_share_goes_with_them(tmp_path: Path, engines_file: Path) -> None:
    one = spec(tmp_path, maps=[str(engines_file)], workers=2)
    child = await start(one, HERE)
    pids = await processes(one)
    async with leaving_nothing(pids):
        os.kill(pids[0], signal.SIGKILL)
        await child.wait()
        await until(lambda: not engines_file.exists(), "the memory is gone")


PARENT = """
import json, subprocess, sys
from memserve.manager.guard import command

told = json.loads(sys.argv[1])
argv = command(argv=tuple(told["argv"]), cores=(), shared_memory=told["memory"], python=sys.executable, outlives=False)
with open(told["log"], "w") as log:
    subprocess.Popen(argv, stdout=log, start_new_session=True).wait()
"""


async def test_kill_9_of_the_parent_leaves_no_process_and_no_memory(tmp_path: Path, cluster: str) -> None:
    one = spec(tmp_path, children=1)
    told = json.dumps({"argv": one.argv, "memory": prefix_of(cluster), "log": one.log})
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, told)
    pids = await processes(one)
    async with leaving_nothing(pids):
        parent.kill()
        await parent.wait()
        await until(lambda: not alive(pids), "the orphans are gone")
        await until(lambda: owners(cluster) == ["colocated-10"], "the memory is gone")


async def test_a_guard_whose_parent_is_gone_already_starts_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "started"
    argv = command(argv=("touch", str(marker)), cores=(), shared_memory="", python=sys.executable, outlives=False)
    argv[3] = "1"
    guard = await asyncio.create_subprocess_exec(*argv)
    await guard.wait()
    assert not marker.exists()


async def test_a_child_runs_on_its_cores_only(tmp_path: Path) -> None:
    core = max(HERE.cores)
    one = spec(tmp_path, cores=(core,))
    child = await start(one, HERE)
    pids = await processes(one)
    try:
        assert os.sched_getaffinity(pids[0]) == {core}
    finally:
        await child.stop()
