"""`memserve bench transfer`: blocks between two processes of this host, path by path, beside NIXL and Mooncake.

The limits are a copy within one process for shared memory, a plain socket and iperf3 for TCP.
"""

import json
import shutil
import socket
import subprocess
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from memserve.bench.child import Say, SystemChild, SystemSpec, start_all
from memserve.bench.records import Missing, Report, Row, make_report, timed_row
from memserve.core.enums import PiecePlan
from memserve.core.errors import InstanceUnavailable, MemserveError

SHAPES = ((2 << 20, 64), (16 << 10, 256))
"""Bytes of a block, blocks moved at once."""
SYSTEMS = {
    "shm": (
        SystemSpec(name="memserve", module="memserve_transfer"),
        SystemSpec(name="nixl", module="nixl_transfer", environment="nixl", variables={"UCX_TLS": "sm,self"}),
        SystemSpec(name="memcpy", module="limit_transfer"),
    ),
    "tcp": (
        SystemSpec(name="memserve", module="memserve_transfer"),
        SystemSpec(name="nixl", module="nixl_transfer", environment="nixl", variables={"UCX_TLS": "tcp,self"}),
        SystemSpec(name="mooncake", module="mooncake_transfer", environment="mooncake"),
        SystemSpec(name="socket", module="limit_transfer"),
        *(SystemSpec(name=f"memserve {plan}", module="memserve_pieces", arguments=(plan,)) for plan in PiecePlan),
    ),
}
_WARM_UP_ROUNDS = 2
_MOVES_A_ROUND = 5
_LONG_MOVE_NS = 200_000_000
"""A system that takes longer for one moves once a round."""
_IPERF_ROUNDS = 5
_IPERF_START_S = 30


class TransferPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure."""

    num_rounds: int = 8


def run_transfer(*, peers: Path, plan: TransferPlan, say: Say) -> Report:
    """Measure every path and shape; a few minutes."""
    rows: list[Row] = []
    missing: dict[str, Missing] = {}
    for path, specs in SYSTEMS.items():
        for block_bytes, num_blocks in SHAPES:
            say(f"{path}: {num_blocks} blocks of {block_bytes >> 10} KiB")
            shape = {"path": path, "block_bytes": block_bytes, "num_blocks": num_blocks}
            with ExitStack() as stack:
                children, absent = start_all(specs, peers=peers)
                for child in children:
                    stack.enter_context(child)
                found, failed = measure_moves(children, shape, num_rounds=plan.num_rounds)
            rows += found
            missing.update({each.system: each for each in [*absent, *failed]})
    say("iperf3")
    try:
        rows.append(measure_iperf3())
    except (MemserveError, OSError, subprocess.SubprocessError, ValueError) as error:
        missing["iperf3"] = Missing(system="iperf3", reason=str(error) or type(error).__name__)
    return make_report("transfer", results=rows, missing=list(missing.values()))


def measure_moves(
    children: list[SystemChild], shape: dict[str, Any], *, num_rounds: int
) -> tuple[list[Row], list[Missing]]:
    """A system that fails on the way is reported and left out; the others go on."""
    times: dict[SystemChild, list[int]] = defaultdict(list)
    failed: dict[SystemChild, Missing] = {}
    moves = dict.fromkeys(children, 1)
    for number in range(-1, _WARM_UP_ROUNDS + num_rounds):
        for child in children:
            if child in failed:
                continue
            try:
                spent = child.ask("open", **shape) if number < 0 else child.ask("move", count=moves[child])
            except MemserveError as error:
                failed[child] = Missing(system=child.spec.name, reason=str(error))
                continue
            moves[child] = _MOVES_A_ROUND if spent and max(spent) < _LONG_MOVE_NS else 1
            times[child] += spent if number >= _WARM_UP_ROUNDS else ()
    total = shape["block_bytes"] * shape["num_blocks"]
    calls = {child: child.ask("close") for child in children if child not in failed}
    rows = [
        timed_row(spent, _row(child, shape, num_calls=calls[child]), num_bytes=total)
        for child, spent in times.items()
        if spent and child in calls
    ]
    return rows, list(failed.values())


def _row(child: SystemChild, shape: dict[str, Any], *, num_calls: int) -> Row:
    return Row(
        system=child.spec.name,
        version=child.version,
        operation="transfer",
        path=shape["path"],
        blocks=shape["num_blocks"],
        size_bytes=shape["block_bytes"],
        calls=num_calls,
    )


def measure_iperf3() -> Row:
    """Median rate of one stream over loopback. Raises FileNotFoundError without iperf3."""
    if shutil.which("iperf3") is None:
        raise FileNotFoundError("iperf3 is not installed: Debian and Ubuntu ship it as iperf3")
    rates = sorted(_iperf3_once() for _ in range(_IPERF_ROUNDS))
    said = subprocess.run(("iperf3", "--version"), capture_output=True, text=True, check=True).stdout
    return Row(
        system="iperf3",
        version=said.split()[1],
        operation="stream",
        path="tcp",
        count=_IPERF_ROUNDS,
        gb_per_s=round(rates[_IPERF_ROUNDS // 2], 3),
    )


def _iperf3_once() -> float:
    """10^9 bytes a second over one second."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    server = subprocess.Popen(("iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", port), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _IPERF_START_S
        while "sum_received" not in (said := _iperf3_client(port)):
            if time.monotonic() > deadline:
                raise InstanceUnavailable(f"iperf3 gave no result in {_IPERF_START_S} s: {said.get('error', said)}")
        return float(said["sum_received"]["bits_per_second"]) / 8e9
    finally:
        server.kill()
        server.wait()


def _iperf3_client(port: str) -> dict[str, Any]:
    """What one second of sending came to, or why it came to nothing."""
    command = ("iperf3", "-c", "127.0.0.1", "-p", port, "-t", "1", "-J")
    done = subprocess.run(command, capture_output=True, check=False, timeout=_IPERF_START_S)
    said: dict[str, Any] = json.loads(done.stdout)
    return said if "error" in said else dict(said["end"])
