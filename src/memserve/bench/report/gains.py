"""What caching brings over PD-Basic, as the paper counts it, from cells of `memserve bench serve`.

Owns the pairing: a system's cell is compared with that of PD-Basic at the same rate in the same repetition, in the
same transfer mode where it has one, and the median of these changes is taken. Saturated cells are left out.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import msgspec

from memserve.bench.serve.record import ServeResult
from memserve.core.enums import CachingMode, TransferMode

FIELDS = ("jct_avg_s", "jct_p99_s", "ttft_avg_s")
PAPER = {
    "sharegpt": {"jct_avg_s": -17.0, "jct_p99_s": -29.0, "ttft_avg_s": -58.0},
    "loogle": {"jct_avg_s": -26.9, "jct_p99_s": -22.5, "ttft_avg_s": -56.2},
    "react": {"jct_avg_s": -26.7, "jct_p99_s": -21.4, "ttft_avg_s": -78.5},
}
"""Change in percent by caching over PD-Basic, from write-ups of arXiv 2406.17565."""


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    system: str
    change: dict[str, float]
    """In percent by field of ServeResult; below 0 is faster."""
    pairs: int
    """Cells that were compared."""


def gains(results: Sequence[ServeResult]) -> list[Gain]:
    """Of every system that has a PD-Basic to be compared with."""
    cells = {(r.system, r.rate, r.repetition): r for r in results if not r.is_saturated}
    changes: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (system, rate, repetition), cell in cells.items():
        base = cells.get((_basic_of(system), rate, repetition))
        if base is None or base is cell:
            continue
        for field in FIELDS:
            changes[system][field].append(100 * (getattr(cell, field) / getattr(base, field) - 1))
    return [
        Gain(
            system=system,
            change={field: median(values) for field, values in found.items()},
            pairs=len(found[FIELDS[0]]),
        )
        for system, found in changes.items()
    ]


def _basic_of(system: str) -> str:
    for mode in TransferMode:
        if system.endswith(f"-{mode}"):
            return f"{CachingMode.BASIC}-{mode}"
    return str(CachingMode.BASIC)
