"""`memserve bench scheduler`: routing decisions and events over 64 instances, beside Dynamo's prompt tree.

Each system runs in its own process and knows of the same million blocks; they take turns in small rounds.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from memserve.bench.child import Say, SystemChild, SystemSpec, start_all
from memserve.bench.records import Missing, Report, Row, make_report, timed_row
from memserve.bench.routing import NUM_INSTANCES, Cluster

SYSTEMS = (
    SystemSpec(name="memserve", module="memserve_scheduler"),
    SystemSpec(name="dynamo", module="dynamo_scheduler", environment="dynamo"),
)
PLACES = ("colocated", "split")
"""64 colocated instances, or 32 for prefill and 32 for decode; peers know no decode side."""
_DECISIONS_A_ROUND = 25
_EVENTS_A_BATCH = 16
_BATCHES_A_ROUND = 2
_WARM_UP_ROUNDS = 2

Times = dict[tuple[str, str, str], list[int]]
"""(system, operation, form of the input) -> nanoseconds."""


class SchedulerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure."""

    scale: int = 1
    """Divides the million blocks."""
    num_rounds: int = 40
    """Of 25 questions to each system in each form it takes, and two batches of events."""


def run_scheduler(*, peers: Path, plan: SchedulerPlan, say: Say) -> Report:
    """Measure both kinds of cluster; minutes, most of them to tell everybody of a million blocks."""
    rows: list[Row] = []
    missing: dict[str, Missing] = {}
    for place in PLACES:
        with ExitStack() as stack:
            children, absent = start_all(SYSTEMS, peers=peers)
            for child in children:
                stack.enter_context(child)
            missing.update({each.system: each for each in absent})
            say(f"{NUM_INSTANCES} instances, {place}, {Cluster(scale=plan.scale).num_blocks} blocks")
            rows += measure_place(children, place, plan=plan)
    return make_report("scheduler", results=rows, missing=list(missing.values()))


def measure_place(children: Sequence[SystemChild], place: str, *, plan: SchedulerPlan) -> list[Row]:
    """Fill the same cluster in every child, then ask and tell."""
    forms, memory = {}, {}
    for child in children:
        forms[child.spec.name] = child.ask("open", split=place == "split", scale=plan.scale)
        memory[child.spec.name] = float(child.ask("fill"))
    times: Times = defaultdict(list)
    chosen = random.Random(place)  # noqa: S311 - which prompts, the same in every run
    for number in range(_WARM_UP_ROUNDS + plan.num_rounds):
        if number == _WARM_UP_ROUNDS:
            times.clear()
        for child in children:
            _round(child, times, forms=forms[child.spec.name], chosen=chosen, scale=plan.scale)
    return [row for child in children for row in _rows(child, place, times, memory[child.spec.name])]


def _round(child: SystemChild, times: Times, *, forms: Sequence[str], chosen: random.Random, scale: int) -> None:
    num_prompts = Cluster(scale=scale).num_prompts
    for form in forms:
        numbers = [chosen.randrange(num_prompts) for _ in range(_DECISIONS_A_ROUND)]
        for spent in child.ask("ask", numbers=numbers, form=form):
            for operation, nanoseconds in spent.items():
                times[child.spec.name, operation, form].append(nanoseconds)
    for _ in range(_BATCHES_A_ROUND):
        instance = chosen.randrange(NUM_INSTANCES)
        for kind, nanoseconds in child.ask("events", instance=instance, count=_EVENTS_A_BATCH).items():
            times[child.spec.name, kind, ""].append(nanoseconds)


def _rows(child: SystemChild, place: str, times: Times, bytes_a_block: float) -> Iterator[Row]:
    cluster = Cluster()
    base = Row(system=child.spec.name, version=child.version, operation="", path=place, blocks=cluster.prompt_blocks)
    for (name, operation, form), spent in times.items():
        if name != child.spec.name:
            continue
        row = msgspec.structs.replace(base, operation=operation, input=form)
        if form:
            yield timed_row(spent, row)
            continue
        blocks = _EVENTS_A_BATCH * cluster.own_blocks
        row = timed_row(spent, msgspec.structs.replace(row, blocks=blocks))
        yield msgspec.structs.replace(row, blocks_per_s=round(blocks / row.p50_us * 1e6))
    yield msgspec.structs.replace(base, operation="memory", size_bytes=round(bytes_a_block), blocks=0)
