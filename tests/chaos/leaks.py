"""What is left when the load has ended, and after the cluster has: nothing may be."""

import asyncio
from collections.abc import Awaitable, Callable

from memserve.core.errors import MemserveError
from memserve.rpc.channel import RpcClient
from memserve.wire.messages import PeerMessage, StatsReply, StatsRequest
from tests.chaos.cluster import ChaosCluster, marked_processes
from tests.chaos.faults import SHARED_MEMORY

_SETTLED_WITHIN_S = 40.0
"""What the dead held elsewhere has ended by then, by the cluster manager's word or its time to live."""
_GONE_WITHIN_S = 10.0
_POLL_S = 0.25


async def held(cluster: ChaosCluster) -> list[str]:
    """What some pool still holds, or some engine still works on, although nobody asks for anything any more."""
    return await _until_empty(lambda: _held_now(cluster), within_s=_SETTLED_WITHIN_S)


async def left(cluster: ChaosCluster) -> list[str]:
    """Processes, files and listening sockets of a cluster that was stopped."""
    return await _until_empty(lambda: _left_now(cluster), within_s=_GONE_WITHIN_S)


async def _held_now(cluster: ChaosCluster) -> list[str]:
    found = []
    for instance in await cluster.view():
        name, load = instance["peer"]["instance"], instance["load"]
        counts = {"running": load.get("num_running"), "waiting": load.get("num_waiting")}
        found += [f"{name}: {count} requests {what}" for what, count in counts.items() if count]
        found += [f"{name}: {open_item}" for open_item in await _open_in_pool(instance["peer"]["endpoint"])]
    return found


async def _open_in_pool(endpoint: str) -> list[str]:
    client: RpcClient[PeerMessage] = RpcClient(endpoint, PeerMessage)
    try:
        stats = await client.call(StatsRequest(), deadline_s=5.0)
    except MemserveError as error:
        return [f"does not tell its books: {error}"]
    finally:
        await client.close()
    if not isinstance(stats, StatsReply):
        return [f"answers {type(stats).__name__}"]
    counts = {
        "leases": stats.num_leases,
        "transfers open": stats.num_transfers_open,
        "handoffs": stats.num_handoffs,
    }
    for tier in stats.tiers:
        counts[f"{tier.tier.name} blocks reserved"] = tier.num_reserved
        counts[f"{tier.tier.name} blocks leased"] = tier.num_leased
        counts[f"{tier.tier.name} blocks in use"] = (
            tier.num_blocks - tier.num_free - tier.num_cached - tier.num_reserved
        )
    return [f"{count} {what}" for what, count in counts.items() if count]


async def _left_now(cluster: ChaosCluster) -> list[str]:
    name = cluster.shape.name
    processes = [f"process {p.pid}" for p in marked_processes(name)]
    files = [f"{path}" for path in sorted(SHARED_MEMORY.glob(f"memserve-{name}-*"))]
    files += [f"{path}" for path in sorted(SHARED_MEMORY.glob("chaos-filler-*"))]
    listening = [f"a socket listens at port {port}" for port in cluster.endpoints_listening()]
    return processes + files + listening


async def _until_empty(look: Callable[[], Awaitable[list[str]]], *, within_s: float) -> list[str]:
    end = asyncio.get_running_loop().time() + within_s
    while (found := await look()) and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - asked of others
        await asyncio.sleep(_POLL_S)
    return found
