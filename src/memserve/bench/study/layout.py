"""Blocks aggregated against discrete: the time of a hand-over by the size of what is sent in one piece.

Takes the two systems of `memserve bench transfer` that are ours alone and asks them for more sizes. No engine.
"""

import asyncio
from pathlib import Path

import msgspec

from memserve.bench.child import Say, start_all
from memserve.bench.records import Missing
from memserve.bench.study.base import Errand, Study
from memserve.bench.study.record import Answer, Point, Quantity, Question, Size
from memserve.bench.transfer import SYSTEMS, measure_moves
from memserve.core.enums import PiecePlan

QUESTION = Question(
    name="layout",
    title="A block in one piece against 64 pieces (K and V of 32 layers), over TCP",
    x=Quantity(name="block", unit="KiB"),
    quantities=(Quantity(name="hand-over", unit="ms a block"), Quantity(name="calls", unit="network calls a block")),
)
SETTING = "two processes without an engine, TCP over loopback, 16 blocks at a time"
_PIECES = {f"memserve {plan}": plan for plan in PiecePlan}
_NUM_BLOCKS = 16


class LayoutPlan(msgspec.Struct, frozen=True, kw_only=True):
    block_kib: tuple[int, ...]
    num_rounds: int


PLANS = {
    Size.QUICK: LayoutPlan(block_kib=(16, 128, 1440), num_rounds=2),
    Size.FULL: LayoutPlan(block_kib=(16, 64, 256, 1440, 6400), num_rounds=8),
}
"""1,440 KiB are 32 tokens of the bundled model, 6,400 KiB the paper's block of 16 tokens."""


async def run(errand: Errand) -> Answer:
    return await asyncio.to_thread(measure, PLANS[errand.size], errand.say)


def measure(plan: LayoutPlan, say: Say) -> Answer:
    """Both plans in turn at every size."""
    points: list[Point] = []
    missing: list[Missing] = []
    for kib in plan.block_kib:
        children, absent = start_all(tuple(s for s in SYSTEMS["tcp"] if s.name in _PIECES), peers=Path())
        try:
            shape = {"path": "tcp", "block_bytes": kib << 10, "num_blocks": _NUM_BLOCKS}
            rows, failed = measure_moves(children, shape, num_rounds=plan.num_rounds)
        finally:
            for child in children:
                child.close()
        missing += [*absent, *failed]
        for row in rows:
            times = [us / 1e3 / _NUM_BLOCKS for us in (row.p50_us, row.p25_us, row.p75_us)]
            points.append(_point(row.system, kib, "hand-over", times, row.count))
            points.append(_point(row.system, kib, "calls", [row.calls / _NUM_BLOCKS] * 3, row.count))
        say(f"blocks of {kib} KiB: {len(rows)} plans")
    return Answer(points=tuple(points), missing=tuple(missing))


def _point(system: str, kib: int, quantity: str, p50_p25_p75: list[float], count: int) -> Point:
    p50, p25, p75 = (round(value, 6) for value in p50_p25_p75)
    return Point(series=str(_PIECES[system]), x=kib, quantity=quantity, p50=p50, p25=p25, p75=p75, count=count)


STUDY = Study(question=QUESTION, setting=SETTING, run=run)
