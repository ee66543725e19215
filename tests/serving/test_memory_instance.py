"""`memserve pool` beside a running cluster: real processes that come, hold what others have no room for, and go."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from memserve.cluster.view import ClusterView
from memserve.config import Watermarks
from memserve.core.enums import Role
from memserve.instance.memory_server import welcome
from memserve.instance.mempool import MemPool
from memserve.wire.messages import Load, PeerInfo
from tests.serving.processes import Command, memserve
from tests.serving.test_serve_command import ask

BLOCKS = 8
PATIENCE_S = 60.0
"""For a machine that has much else to do; how fast it stops is looked at elsewhere."""
MARKS = Watermarks(low=0.3, high=0.5)


async def cluster(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/admin/cluster") as answer:
        return msgspec.json.decode(await answer.read())


async def view(url: str) -> ClusterView:
    return msgspec.convert((await cluster(url))["view"], ClusterView)


async def eventually(condition: Callable[[], Any], *, deadline_s: float = PATIENCE_S) -> Any:
    """What the condition gives once that is something; looks again 20 times a second."""
    async with asyncio.timeout(deadline_s):
        while not (found := await condition()):  # noqa: ASYNC110 - other processes make it true
            await asyncio.sleep(0.05)
    return found


async def memory_peer(url: str) -> PeerInfo:
    async def find() -> PeerInfo | None:
        return next((i.peer for i in (await view(url)).active(Role.MEMORY)), None)

    return await eventually(find)


async def joined_pool(url: str) -> MemPool:
    """An instance of this very process, with DRAM for three prompts."""
    endpoint = (await cluster(url))["manager"]
    into = await welcome(endpoint)
    assert into.identity is not None
    pool = MemPool(
        instance="tester",
        identity=into.identity,
        block_size=into.identity.block_size,
        block_bytes=into.identity.block_bytes,
        dram_bytes=3 * BLOCKS * into.identity.block_bytes,
        cluster=into.cluster,
        marks=MARKS,
    )
    pool.membership.join(endpoint, cluster=into.cluster, role=Role.COLOCATED, url="http://127.0.0.1:1", load=Load)
    return pool


def prompt(pool: MemPool, number: int) -> bytes:
    size = pool.info.identity.block_size
    return b"".join((number * 1000 + block).to_bytes(4, "little") * size for block in range(BLOCKS))


def contents(pool: MemPool, number: int) -> bytes:
    return bytes([number]) * pool.info.identity.block_bytes * BLOCKS


def hold(pool: MemPool, number: int) -> None:
    blocks = pool.alloc_mem(BLOCKS)
    pool.write(blocks, contents(pool, number))
    pool.insert(prompt(pool, number), blocks)


async def has_room(pool: MemPool) -> bool:
    return pool.stats().tiers[0].num_free >= 2 * BLOCKS


async def spill(pool: MemPool, numbers: range) -> None:
    for number in numbers:
        hold(pool, number)
        await eventually(lambda: has_room(pool))


def brought_back(pool: MemPool, holder: PeerInfo, number: int) -> bool:
    pool.pull(holder, prompt(pool, number)).result()
    with pool.match(prompt(pool, number)) as match:
        return pool.read(match.addresses) == contents(pool, number)


async def rows(url: str) -> list[list[str]]:
    async with memserve("status", "--url", url) as status:
        assert await status.status(within_s=PATIENCE_S) == 0
    return [cells[:3] for line in status.lines if (cells := line.split())[1:2] == ["memory"]]


@pytest.mark.timeout(300)
async def test_it_holds_for_others_hands_on_what_it_holds_finds_its_disk_again_and_its_kill_is_a_mere_loss_of_cache(
    tmp_path: Path,
) -> None:
    async with memserve("serve", "--colocated", "1", "--port", "0") as serve:
        url = await serve.url()
        options = ("pool", "--dram", "64KiB", "--disk", f"{tmp_path}:4MiB", "--join", url)
        async with memserve(*options, "--hand-on") as memory:
            name = (await memory.line_with("Ctrl-C to leave")).split()[0]
            holder = await memory_peer(url)
            assert await rows(url) == [[name, "memory", "active"]]
            pool = await joined_pool(url)
            await spill(pool, range(12))
            assert await asyncio.to_thread(brought_back, pool, holder, 1)
            await leave(memory)
            left = await view(url)
            assert left.find(holder.instance) is None
            [heir] = left.active(Role.COLOCATED)
            assert await asyncio.to_thread(brought_back, pool, heir.peer, 2)
        async with memserve(*options) as memory:
            assert (await memory.line_with("Ctrl-C to leave")).split()[0] == name
            again = await memory_peer(url)
            assert again.incarnation > holder.incarnation
            assert await asyncio.to_thread(brought_back, pool, again, 0)
            memory.send(signal.SIGKILL)
            await memory.status(within_s=PATIENCE_S)
            for number in range(20, 30):
                hold(pool, number)
            assert pool.match(prompt(pool, 29)).num_tokens > 0
            assert await ask(url) == 200
            await asyncio.to_thread(pool.close)
        serve.send(signal.SIGTERM)
        assert await serve.status(within_s=PATIENCE_S) == 0
    assert serve.shared_files() == []


async def leave(memory: Command) -> None:
    """As Ctrl-C would, and its requests and its cache are seen to first."""
    memory.send(signal.SIGINT)
    assert await memory.status(within_s=PATIENCE_S) == 0
    assert memory.lines[-1] == "stopped"


async def test_nobody_to_join_is_told_in_one_line() -> None:
    async with memserve("pool", "--join", "http://127.0.0.1:1") as memory:
        assert await memory.status(within_s=PATIENCE_S) == 1
    [line] = memory.lines
    assert "no memserve gateway answers at http://127.0.0.1:1" in line
