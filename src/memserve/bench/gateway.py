"""`memserve bench gateway`: what a router adds to a request, beside vllm-router and sglang-router.

All routers stand before the same two engines that compute nothing, one router at a time and in turn, under the
same load. "memserve x2" is our gateway as two processes (`memserve serve --workers 2`). What is added is the latency
through the router over the latency without one, at the same concurrency. What depends least on the machine's other work
is the CPU time that a router takes for a request.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np

from memserve.bench.child import Say, SystemChild, SystemSpec, start_all
from memserve.bench.processes import cpu_seconds
from memserve.bench.records import Missing, Run, now, this_command, this_commit, this_machine
from memserve.core.errors import InstanceUnavailable, MemserveError

CONCURRENCIES = (1, 16, 64)
OURS = SystemSpec(name="memserve", module="memserve_gateway")
ROUTERS = (
    OURS,
    SystemSpec(name="vllm-router", module="rust_router", environment="vllm-router", arguments=("vllm-router",)),
    SystemSpec(name="sglang-router", module="rust_router", environment="sglang-router", arguments=("sglang-router",)),
)
POLICIES = {
    "memserve": ("prompt-tree", "round-robin"),
    "vllm-router": ("cache_aware", "round_robin"),
    "sglang-router": ("cache_aware", "round_robin"),
}
_NUM_BACKENDS = 2
_WARM_UP_S = 0.5


class GatewayPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure."""

    num_rounds: int = 3
    seconds: float = 2.0
    """Of each cell in each round."""
    num_workers: int = 2
    """Processes of our own gateway, which is measured as one, too; 1: as nothing else."""


class GatewayRow(msgspec.Struct, frozen=True, kw_only=True):
    """One router under one load: medians over the rounds."""

    system: str
    version: str
    policy: str
    concurrency: int
    streaming: bool
    requests: int = 0
    requests_per_s: float = 0.0
    added_p50_ms: float = 0.0
    added_p99_ms: float = 0.0
    cpu_us: float = 0.0
    """Of all processes of the router, for one request."""


class GatewayReport(Run, frozen=True, kw_only=True):
    results: tuple[GatewayRow, ...]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    concurrency: int
    streaming: bool


class _Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One cell in one round."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


class _Router(msgspec.Struct, frozen=True, kw_only=True):
    child: SystemChild
    policy: str
    num_workers: int = 1

    @property
    def system(self) -> str:
        name = self.child.spec.name
        return name if self.num_workers == 1 else f"{name} x{self.num_workers}"


def run_gateway(*, peers: Path, plan: GatewayPlan, say: Say) -> GatewayReport:
    """Measure every router, policy and load; a few minutes. Raises InstanceUnavailable when no load can be made."""
    with ExitStack() as stack:
        tools, absent = start_all((*_BACKENDS, _LOAD), peers=peers)
        if absent:
            raise InstanceUnavailable(f"{absent[0].system} did not start: {absent[0].reason}")
        *backends, load = [stack.enter_context(tool) for tool in tools]
        routers, missing = start_all(ROUTERS, peers=peers)
        for router in routers:
            stack.enter_context(router)
        urls = [backend.ask("open") for backend in backends]
        run = _Run(load=load, urls=urls, plan=plan, say=say)
        rows = list(run.rows([one for child in routers for one in _variants(child, plan)]))
        missing += run.failed
    return GatewayReport(
        bench="gateway",
        started=now(),
        machine=this_machine(),
        missing=tuple(missing),
        command=this_command(),
        commit=this_commit(),
        results=tuple(rows),
    )


def _variants(child: SystemChild, plan: GatewayPlan) -> Iterator[_Router]:
    policies = POLICIES[child.spec.name]
    yield from (_Router(child=child, policy=policy) for policy in policies)
    if child.spec is OURS and plan.num_workers > 1:
        yield _Router(child=child, policy=policies[0], num_workers=plan.num_workers)


_BACKENDS = tuple(SystemSpec(name=f"backend {number}", module="fake_backend") for number in range(_NUM_BACKENDS))
_LOAD = SystemSpec(name="load", module="http_load")


class _Run:
    """All rounds over the same backends."""

    def __init__(self, *, load: SystemChild, urls: list[str], plan: GatewayPlan, say: Say) -> None:
        self._load = load
        self._urls = urls
        self._plan = plan
        self._say = say
        self.failed: list[Missing] = []

    def rows(self, routers: list[_Router]) -> Iterator[GatewayRow]:
        direct: dict[Cell, list[_Sample]] = defaultdict(list)
        through: dict[tuple[str, str], dict[Cell, list[_Sample]]] = {}
        versions = {router.system: router.child.version for router in routers}
        for number in range(self._plan.num_rounds):
            self._say(f"round {number + 1} of {self._plan.num_rounds}")
            self._measure(self._urls, direct, processes=())
            for router in list(routers):
                key = (router.system, router.policy)
                if not self._through(router, through.setdefault(key, defaultdict(list))):
                    routers.remove(router)
        for (system, policy), samples in through.items():
            for cell, found in samples.items():
                row = GatewayRow(
                    system=system, version=versions[system], policy=policy, streaming=cell.streaming,
                    concurrency=cell.concurrency,
                )  # fmt: skip
                yield _filled(row, found, direct[cell])

    def _through(self, router: _Router, samples: dict[Cell, list[_Sample]]) -> bool:
        """False when the router failed; it is left out from then on."""
        try:
            url = router.child.ask("open", backends=self._urls, policy=router.policy, num_workers=router.num_workers)
            try:
                self._measure([url], samples, processes=(router.child.pid,))
            finally:
                router.child.ask("close")
        except MemserveError as error:
            self.failed.append(Missing(system=f"{router.system} {router.policy}", reason=str(error)))
            samples.clear()
            return False
        return True

    def _measure(self, urls: list[str], samples: dict[Cell, list[_Sample]], *, processes: tuple[int, ...]) -> None:
        self._ask(urls, Cell(concurrency=CONCURRENCIES[-1], streaming=False), _WARM_UP_S, processes)
        for concurrency in CONCURRENCIES:
            for streaming in (False, True):
                cell = Cell(concurrency=concurrency, streaming=streaming)
                samples[cell].append(self._ask(urls, cell, self._plan.seconds, processes))

    def _ask(self, urls: list[str], cell: Cell, seconds: float, processes: tuple[int, ...]) -> _Sample:
        before_s = cpu_seconds(processes)
        found = self._load.ask(
            "run", urls=urls, concurrency=cell.concurrency, streaming=cell.streaming, seconds=seconds
        )
        if found["errors"]:
            raise InstanceUnavailable(f"{found['errors']} of {len(found['times_ns'])} requests were not answered 200")
        p50, p99 = (float(value) / 1e6 for value in np.percentile(found["times_ns"], (50, 99)))
        requests = len(found["times_ns"])
        return _Sample(
            requests=requests,
            requests_per_s=found["requests_per_s"],
            p50_ms=p50,
            p99_ms=p99,
            cpu_us=(cpu_seconds(processes) - before_s) / requests * 1e6,
        )


def _filled(row: GatewayRow, found: list[_Sample], direct: list[_Sample]) -> GatewayRow:
    def median(samples: list[_Sample], name: str) -> float:
        return float(np.median([getattr(sample, name) for sample in samples]))

    return msgspec.structs.replace(
        row,
        requests=sum(sample.requests for sample in found),
        requests_per_s=round(median(found, "requests_per_s"), 1),
        added_p50_ms=round(median(found, "p50_ms") - median(direct, "p50_ms"), 3),
        added_p99_ms=round(median(found, "p99_ms") - median(direct, "p99_ms"), 3),
        cpu_us=round(median(found, "cpu_us"), 1),
    )


def as_gateway_lines(report: GatewayReport) -> Iterator[str]:
    """One line a row, aligned, in the order of load; then what was missing."""
    header = ("system", "policy", "clients", "streams", "requests/s", "added p50 ms", "added p99 ms", "CPU us")
    ordered = sorted(report.results, key=lambda row: (row.streaming, row.concurrency))
    cells = [header] + [
        (
            f"{row.system} {row.version}",
            row.policy,
            str(row.concurrency),
            "yes" if row.streaming else "no",
            f"{row.requests_per_s:.0f}",
            f"{row.added_p50_ms:.2f}",
            f"{row.added_p99_ms:.2f}",
            f"{row.cpu_us:.0f}",
        )
        for row in ordered
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    for line in cells:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
    for missing in report.missing:
        yield f"missing: {missing.system}: {missing.reason}"
