"""`memserve status`: the cluster as the gateway sees it, as tables and lines; reads its admin API."""

import asyncio
from collections.abc import Sequence

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memserve.cli.admin import ask
from memserve.cli.sizes import size_text
from memserve.cluster.view import ClusterView, InstanceView
from memserve.core.enums import AutoscaleMode
from memserve.gateway.other_workers import WorkerState
from memserve.gateway.pool_routes import InstancePath
from memserve.manager.autoscaling import AutoscalerReport
from memserve.manager.operations import Operation, OperationState
from memserve.security.gateway_access import ANY_GATEWAY, GatewayAccess
from memserve.wire.messages import PathCheck

_SHOWN = 5
"""Of the changes that the autoscaler wanted."""


class _Paths(msgspec.Struct, frozen=True, kw_only=True):
    paths: tuple[InstancePath, ...]


class _Operations(msgspec.Struct, frozen=True, kw_only=True):
    operations: tuple[Operation, ...]


class _Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the answer that is shown."""

    view: ClusterView
    path_checks: tuple[PathCheck, ...] = ()
    failures: tuple[str, ...] = ()
    workers: tuple[WorkerState, ...] = ()


def show_status(url: str, access: GatewayAccess = ANY_GATEWAY) -> None:
    """Print one row an instance. Raises InstanceUnavailable when no gateway answers at `url`."""
    cluster, paths, operations, autoscaler = asyncio.run(_read(url, access))
    view = cluster.view
    console = Console(highlight=False)
    count = len(view.instances)
    console.print(f"cluster of {count} instance{'' if count == 1 else 's'}, epoch {view.epoch}")
    console.print(render(view))
    if paths:
        console.print(render_paths(paths))
    missing = [f"missing: {failure}" for failure in cluster.failures]
    changes = [*changes_text(operations), *autoscaler_text(autoscaler)]
    for line in (*missing, *workers_text(cluster.workers), *paths_text(cluster.path_checks), *changes):
        console.print(line, markup=False, soft_wrap=True)


def paths_text(checks: tuple[PathCheck, ...]) -> list[str]:
    """How many ways between the instances work, and a line for each that was tried out and does not."""
    tried = [check for check in checks if check.is_possible and check.answered]
    if not tried:
        return []
    wrong = [check for check in tried if not check.is_right]
    lines = [f"paths between instances: {len(tried) - len(wrong)} of {len(tried)} brought a block over as it was"]
    return lines + [f"  NOT {check.source} -> {check.target} by {check.path}: {check.fault}" for check in wrong]


def workers_text(others: Sequence[WorkerState]) -> list[str]:
    """How many processes serve; a line for each that does not, or that was started again."""
    if not others:
        return []
    serving = 1 + sum(bool(one.pid) for one in others)
    lines = [f"gateway workers: {serving} of {1 + len(others)} serve"]
    for one in others:
        again = f", started again {one.num_restarts} times" if one.num_restarts else ""
        if again or not one.pid:
            lines.append(f"  worker {one.worker}: {f'serves as process {one.pid}' if one.pid else 'NOT there'}{again}")
    return lines


def changes_text(operations: Sequence[Operation]) -> list[str]:
    """A line for each change of the cluster that is under way."""
    return [f"under way: {o.kind} {o.instance}: {o.step}" for o in operations if o.state is OperationState.RUNNING]


def autoscaler_text(report: AutoscalerReport) -> list[str]:
    """What it sees, and the latest changes that it wanted; nothing when it is off."""
    if report.mode is AutoscaleMode.OFF:
        return []
    lines = [f"autoscaler {report.mode}{_acting_text(report)}", *(f"  {note}" for note in report.notes)]
    for one in report.decided[-_SHOWN:]:
        reason = f" ({one.reason})" if one.reason else ""
        lines.append(f"  {one.seconds_ago:.0f} s ago {one.outcome}{reason}: {one.change}")
    return lines


def _acting_text(report: AutoscalerReport) -> str:
    """Who makes the changes, where several gateways could."""
    acting = report.acting
    if report.mode is AutoscaleMode.PROPOSE or (acting.is_here and not acting.manager):
        return ""
    if acting.is_here:
        return ", this gateway acts"
    if acting.manager:
        return f", the gateway with manager {acting.manager} acts; this one takes over when that is gone"
    return ", nobody acts: etcd does not answer"


def render(view: ClusterView) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in ("instance", "role", "state", "URL", "running", "waiting", "pool cached/all"):
        table.add_column(heading, no_wrap=heading != "URL", overflow="fold")  # what gives way where lines are short
    for instance in view.instances:
        table.add_row(*_cells(instance))
    return table


def render_paths(paths: Sequence[InstancePath]) -> Table:
    """One row for each instance and each one that it exchanges KV with."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in ("instance", "KV with", "by"):
        table.add_column(heading, no_wrap=True)
    for path in paths:
        table.add_row(path.instance, path.peer, path.path or "no path")
    return table


def _cells(instance: InstanceView) -> tuple[str, ...]:
    block_bytes = instance.peer.identity.block_bytes
    pool = "\n".join(
        f"{tier.tier.name} {tier.num_cached} / {tier.num_blocks} ({size_text(tier.num_blocks * block_bytes)})"
        for tier in instance.load.pool
    )
    return (
        instance.instance,
        instance.role,
        instance.state,
        instance.url or "-",
        str(instance.load.num_running),
        str(instance.load.num_waiting),
        pool or "-",
    )


async def _read(
    url: str, access: GatewayAccess
) -> tuple[_Cluster, tuple[InstancePath, ...], tuple[Operation, ...], AutoscalerReport]:
    return (
        await ask(url, "/admin/cluster", _Cluster, access=access),
        (await ask(url, "/admin/paths", _Paths, access=access)).paths,
        (await ask(url, "/admin/operations", _Operations, access=access)).operations,
        await ask(url, "/admin/autoscaler", AutoscalerReport, access=access),
    )
