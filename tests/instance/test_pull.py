"""A pool asks another one for what that one holds of a prefix: over both paths, and when the holder fails it."""

import signal
import subprocess
import sys
from array import array
from collections.abc import Iterator
from concurrent.futures import Future

import msgspec
import pytest

from memserve.config import ALL_PATHS
from memserve.core.enums import DataPath
from memserve.core.errors import DeadlineExceeded, IdentityMismatch, InstanceUnavailable, MemserveError, PoolExhausted
from memserve.instance.mempool import MemPool
from memserve.instance.setup import default_identity
from memserve.storage.shared_memory import sweep
from tests.instance.conftest import BLOCK_BYTES, BLOCK_SIZE, CLUSTER, MakePool
from tests.instance.contents import PROMPT_BLOCKS, contents, prompt


def data(number: int) -> bytes:
    return array("i", prompt(number)).tobytes()


def keep(pool: MemPool, number: int, *, num_blocks: int = PROMPT_BLOCKS) -> None:
    """Index the leading blocks of a prompt with their right contents."""
    blocks = pool.alloc_mem(num_blocks)
    pool.write(blocks, contents(number)[: num_blocks * BLOCK_BYTES])
    pool.insert(prompt(number)[: num_blocks * BLOCK_SIZE], blocks)


def held(pool: MemPool, number: int) -> bytes:
    with pool.match(prompt(number)) as match:
        return pool.read(match.addresses)


def is_idle(pool: MemPool) -> bool:
    stats = pool.stats()
    return (stats.tiers[0].num_reserved, stats.num_leases, stats.num_transfers_open) == (0, 0, 0)


@pytest.fixture
def holder() -> Iterator["subprocess.Popen[str]"]:
    """A process whose pool holds all prompts of `peer_process.hold`."""
    peer = subprocess.Popen(
        [sys.executable, "-m", "tests.instance.peer_process", CLUSTER, "holder", "", "hold"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield peer
    peer.kill()
    peer.communicate()
    sweep(CLUSTER)


def endpoint(peer: "subprocess.Popen[str]") -> str:
    assert peer.stdout is not None
    return peer.stdout.readline().strip()


@pytest.mark.parametrize("path", ALL_PATHS)
@pytest.mark.parametrize("num_own_blocks", [0, 3])
def test_what_another_process_holds_arrives_whole_and_only_what_is_lacking_is_sent(
    make_pool: MakePool, holder: "subprocess.Popen[str]", path: DataPath, num_own_blocks: int
) -> None:
    asker = make_pool("asker", paths=(path,))
    if num_own_blocks:
        keep(asker, 1, num_blocks=num_own_blocks)
    peer = asker.connect(endpoint(holder))
    assert asker.pull(peer, data(1)).result() == (PROMPT_BLOCKS - num_own_blocks) * BLOCK_SIZE
    assert held(asker, 1) == contents(1)
    assert is_idle(asker)
    asker.local.check()


def test_pulling_tells_the_asker_nothing_but_the_number(a: MemPool, b: MemPool) -> None:
    keep(b, 1)
    a.pull(b.info, data(1)).result()
    assert a.take_received(deadline_s=0) is None


def test_a_prefix_that_the_asker_has_or_that_was_evicted_is_not_sent(a: MemPool, b: MemPool) -> None:
    keep(a, 1)
    keep(b, 1)
    assert a.pull(b.info, data(1)).result() == 0
    b.delete(prompt(2))
    assert a.pull(b.info, data(2)).result() == 0
    keep(b, 3)
    b.delete(prompt(3)[: 4 * BLOCK_SIZE])
    assert a.pull(b.info, data(3)).result() == 3 * BLOCK_SIZE
    assert held(a, 3) == contents(3)[: 3 * BLOCK_BYTES]


def test_the_same_prefix_pulled_many_times_at_once_is_there_once(a: MemPool, b: MemPool) -> None:
    keep(b, 1, num_blocks=3)
    pulls = [a.pull(b.info, data(1)) for _ in range(4)]
    assert {pull.result() for pull in pulls} <= {0, 3 * BLOCK_SIZE}
    assert a.stats().tiers[0].num_cached == 3
    assert is_idle(a)
    assert is_idle(b)


def test_a_pool_without_room_gets_nothing_and_holds_nothing(make_pool: MakePool, b: MemPool) -> None:
    small = make_pool("small", dram_bytes=2 * BLOCK_BYTES)
    keep(b, 1)
    with pytest.raises(PoolExhausted):
        small.pull(b.info, data(1)).result()
    assert is_idle(small)
    assert is_idle(b)


def test_another_models_kv_is_not_pulled(make_pool: MakePool, a: MemPool) -> None:
    identity = default_identity(block_size=BLOCK_SIZE, block_bytes=BLOCK_BYTES)
    other = make_pool("other", identity=msgspec.structs.replace(identity, model="another"))
    keep(other, 1)
    with pytest.raises(IdentityMismatch, match="model"):
        a.pull(other.info, data(1)).result()
    assert held(a, 1) == b""


def test_a_holder_killed_while_prefixes_are_pulled_costs_only_what_did_not_come(
    make_pool: MakePool, holder: "subprocess.Popen[str]"
) -> None:
    asker = make_pool("asker", dram_bytes=256 * BLOCK_BYTES)
    peer = asker.connect(endpoint(holder))
    asker.pull(peer, data(0)).result()
    pulls = [asker.pull(peer, data(number), deadline_s=1) for number in range(1, 6)]
    holder.kill()
    arrived = [number for number, pull in enumerate(pulls, 1) if _came(pull)]
    for number in range(6):
        found = held(asker, number)
        assert found in (b"", contents(number))
        assert found or number not in arrived
    assert is_idle(asker)
    asker.local.check()


def test_a_holder_that_stands_still_is_waited_for_no_longer_than_said(
    make_pool: MakePool, holder: "subprocess.Popen[str]"
) -> None:
    asker = make_pool("asker")
    peer = asker.connect(endpoint(holder))
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded):
        asker.pull(peer, data(1), deadline_s=0.3).result()
    assert is_idle(asker)
    holder.send_signal(signal.SIGCONT)
    assert asker.pull(peer, data(2)).result() == PROMPT_BLOCKS * BLOCK_SIZE
    assert held(asker, 2) == contents(2)


def test_a_closed_pool_pulls_nothing(make_pool: MakePool, b: MemPool) -> None:
    closed = make_pool("closed")
    closed.close()
    with pytest.raises(InstanceUnavailable):
        closed.pull(b.info, data(1))


def _came(pull: "Future[int]") -> bool:
    try:
        return pull.result() > 0
    except MemserveError:
        return False
