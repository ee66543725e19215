"""The file behind a pool's DRAM tier: private to its user, gone with its owner, checked before it is mapped."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from memserve.core.errors import ConfigError, InstanceUnavailable
from memserve.core.ids import Incarnation, InstanceId
from memserve.storage.shared_memory import SharedMemory, attach, owner_lives, sweep

CLUSTER = f"storagetest{os.getpid()}"

OWNER = """
import sys
from memserve.storage.shared_memory import SharedMemory
arena = SharedMemory(cluster=sys.argv[1], instance="child", incarnation=1, num_blocks=2, block_bytes=64)
print(arena.ref.path, flush=True)
sys.stdin.read()
"""


def make(instance: str = "a", num_blocks: int = 2) -> SharedMemory:
    return SharedMemory(
        cluster=CLUSTER,
        instance=InstanceId(instance),
        incarnation=Incarnation(time.time_ns()),
        num_blocks=num_blocks,
        block_bytes=64,
    )


@pytest.fixture
def arena() -> Iterator[SharedMemory]:
    made = make()
    yield made
    made.close()


@pytest.fixture
def child() -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A process that owns an arena until it is killed or its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()
    sweep(CLUSTER)


def test_both_sides_see_the_same_bytes(arena: SharedMemory) -> None:
    peer = attach(arena.ref)
    arena.view(1)[:] = b"k" * 64
    assert bytes(peer.view(1)) == b"k" * 64
    peer.view(0)[:] = b"v" * 64
    assert bytes(arena.view(0)) == b"v" * 64
    peer.close()


def test_only_its_user_may_open_the_file(arena: SharedMemory) -> None:
    assert Path(arena.ref.path).stat().st_mode & 0o777 == 0o600


def test_a_peer_that_maps_for_reading_cannot_write(arena: SharedMemory) -> None:
    peer = attach(arena.ref, writable=False)
    with pytest.raises(TypeError, match="read-only"):
        peer.view(0)[0] = 1
    peer.close()


def test_close_removes_the_file(arena: SharedMemory) -> None:
    arena.close()
    assert not Path(arena.ref.path).exists()


def test_a_full_dev_shm_is_a_config_error_with_the_numbers_and_leaves_no_file() -> None:
    with pytest.raises(ConfigError, match=rf"asks for {64 << 40} bytes .* has \d+ bytes free"):
        make("huge", num_blocks=1 << 40)
    assert not list(Path("/dev/shm").glob(f"memserve-{CLUSTER}-huge-*"))  # noqa: S108


def test_two_pools_cannot_own_the_same_file(arena: SharedMemory) -> None:
    incarnation = Incarnation(int(arena.ref.path.rsplit("-", 1)[1]))
    with pytest.raises(ConfigError, match="another pool runs under this name"):
        SharedMemory(cluster=CLUSTER, instance=InstanceId("a"), incarnation=incarnation, num_blocks=1, block_bytes=64)


@pytest.mark.parametrize("name", ["a/b", "", "..\0", "x" * 200])
def test_an_instance_name_that_is_no_file_name_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match="instance"):
        make(name)


def test_sweep_leaves_what_lives_and_takes_what_was_killed(
    arena: SharedMemory, child: tuple["subprocess.Popen[str]", Path]
) -> None:
    process, path = child
    assert sweep(CLUSTER) == ()
    assert path.exists()
    process.kill()
    process.wait()
    assert sweep(CLUSTER) == (path.name,)
    assert not path.exists()
    assert Path(arena.ref.path).exists()


def test_an_owner_is_known_to_live_until_it_is_killed(child: tuple["subprocess.Popen[str]", Path]) -> None:
    process, path = child
    mine = make("template")
    ref = msgspec.structs.replace(mine.ref, path=str(path))
    mine.close()
    assert owner_lives(ref)
    process.kill()
    process.wait()
    assert not owner_lives(ref)


def test_an_owner_is_known_to_be_dead_while_somebody_else_asks_the_same(
    child: tuple["subprocess.Popen[str]", Path],
) -> None:
    process, path = child
    mine = make("template")
    ref = msgspec.structs.replace(mine.ref, path=str(path))
    mine.close()
    process.kill()
    process.wait()
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not owner_lives(ref)
        assert sweep(CLUSTER) == (path.name,)


def test_an_owner_that_exits_without_close_leaves_no_file(child: tuple["subprocess.Popen[str]", Path]) -> None:
    process, path = child
    process.communicate(timeout=10)
    assert not path.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"host": "another-boot-id"},
        {"num_blocks": 3},
        {"block_bytes": 128},
        {"path": "/etc/passwd"},
        {"path": "/dev/shm/memserve-nobody-x-1"},  # noqa: S108
    ],
)
def test_an_arena_that_is_not_as_announced_is_not_mapped(arena: SharedMemory, change: dict[str, object]) -> None:
    with pytest.raises(InstanceUnavailable):
        attach(msgspec.structs.replace(arena.ref, **change))
