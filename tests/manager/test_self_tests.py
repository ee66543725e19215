"""Newcomers try their paths out with those that serve: by real pools, whose memory and network can be taken away."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.enums import DataPath, Role
from memserve.core.errors import TransferFailed
from memserve.instance.mempool import MemPool
from memserve.manager.self_tests import SelfTests
from memserve.wire.messages import Load


class Pools:
    """Pools of one test, and how a view shows them."""

    def __init__(self) -> None:
        self.made: list[MemPool] = []

    def __call__(self, name: str, **more: Any) -> InstanceView:
        pool = MemPool(
            instance=name, block_size=4, block_bytes=4096, dram_bytes=1 << 16, cluster=f"selftest{os.getpid()}", **more
        )
        self.made.append(pool)
        return InstanceView(peer=pool.info, role=Role.COLOCATED, url="", state=InstanceState.ACTIVE, load=Load())


@pytest.fixture
def pools() -> Iterator[Pools]:
    pools = Pools()
    yield pools
    for pool in pools.made:
        pool.close()


def broken_fetch(*_: object) -> None:
    raise TransferFailed("the bytes are not what was sent")


async def test_all_paths_are_tried_out_both_ways(pools: Pools) -> None:
    a, b, c = pools("a"), pools("b"), pools("c")
    tests = SelfTests()
    assert await tests.refusal(c, [a, b]) == ""
    checks = tests.checks(ClusterView(instances=(a, b, c)))
    assert {(k.source, k.target, k.path) for k in checks if k.is_right} == {
        (*hop, path)
        for hop in (("c", "a"), ("a", "c"), ("c", "b"), ("b", "c"))
        for path in (DataPath.SHM, DataPath.TCP)
    }
    assert tests.checks(ClusterView(instances=(a, b))) == ()


async def test_the_first_one_has_nobody_to_try_with(pools: Pools) -> None:
    assert await SelfTests().refusal(pools("a"), []) == ""


async def test_one_that_shares_no_path_with_anybody_is_refused(pools: Pools) -> None:
    a, b = pools("a", paths=(DataPath.SHM,)), pools("b", paths=(DataPath.TCP,))
    why = await SelfTests().refusal(b, [a])
    assert why.startswith("no block gets between b and a: ")
    assert "set pool.paths so that both allow one" in why


async def test_one_whose_blocks_never_arrive_is_refused_and_taken_in_when_one_path_works(
    pools: Pools, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = pools("a"), pools("b")
    monkeypatch.setattr("memserve.transport.shm.SharedMemoryTransport.fetch", broken_fetch)
    assert await SelfTests().refusal(b, [a]) == ""
    assert "a block does not get from b to a by shm: the bytes are not what was sent" in caplog.text
    monkeypatch.setattr("memserve.transport.tcp.TcpTransport.fetch", broken_fetch)
    assert "the bytes are not what was sent" in await SelfTests().refusal(b, [a])


async def test_a_dead_peer_keeps_nobody_out(pools: Pools) -> None:
    a, b = pools("a"), pools("b")
    pools.made[0].close()
    assert await SelfTests(deadline_s=1.0).refusal(b, [a]) == ""
