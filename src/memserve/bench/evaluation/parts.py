"""What the report shows, as commands, small and in full.

Owns their options, order and deadlines. What needs no engine comes first, what needs another part's result last.
"""

from pathlib import Path

import msgspec

from memserve.bench.report.serving import OPTIONS, WORKLOADS
from memserve.bench.study.record import Size
from memserve.bench.study.run import STUDIES


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One command of `memserve`, without the name of its result file."""

    name: str
    arguments: tuple[str, ...]
    """ "{results}" in one stands for the folder of results."""
    deadline_s: float

    def file(self, results: Path) -> Path:
        return results / f"{self.name}.json"

    def command(self, results: Path) -> tuple[str, ...]:
        arguments = (argument.replace("{results}", str(results)) for argument in self.arguments)
        return (*arguments, "--json", str(self.file(results)))


def parts_of(size: Size) -> list[Part]:
    """Everything that the report shows."""
    return [
        Part(name=name, arguments=tuple(command.split()), deadline_s=deadline_s)
        for name, command, deadline_s in _PARTS[size]
    ]


_TRACES = "../shared/data/mooncake"
_SMALL = "--systems basic,return --rate 0.2 --sessions 2 --repetitions 1"
_PROFILE = "{results}/cost-profile.json"
_RUNS = " ".join(f"{{results}}/serve-{name}.json" for name in WORKLOADS)
_AGAINST = f"bench simulated against {_RUNS} --profile {_PROFILE}"
_HOUR = 3600.0

_PARTS: dict[Size, tuple[tuple[str, str, float], ...]] = {
    Size.QUICK: (
        ("index", "bench index --scale 10 --systems memserve", 120.0),
        ("pool", "bench pool", 120.0),
        ("simulation-paper", "bench simulated paper --sessions 60 --seeds 1 --loads 2", 240.0),
        ("simulation-cost", f"bench simulated cost {_TRACES}/mooncake_arxiv_trace_1000.jsonl --most 32", 120.0),
        ("simulation-memory", f"bench simulated memory {_TRACES}/mooncake_arxiv_trace_1000.jsonl", 120.0),
        *((f"study-{name}", f"bench study {name} --size quick", 240.0) for name in STUDIES),
        *((f"serve-{name}", f"bench serve --workload {name} {_SMALL}", 300.0) for name in WORKLOADS),
        ("calibration", f"calibrate --seconds 30 --output {_PROFILE}", 200.0),
        ("simulation-against", _AGAINST, 120.0),
    ),
    Size.FULL: (
        ("index", "bench index", _HOUR),
        ("pool", "bench pool", _HOUR),
        ("simulation-paper", "bench simulated paper", 4 * _HOUR),
        ("simulation-cost", f"bench simulated cost {_TRACES}/conversation_trace.jsonl", 4 * _HOUR),
        (
            "simulation-memory",
            f"bench simulated memory {_TRACES}/conversation_trace.jsonl --max-requests 4000",
            _HOUR,
        ),
        *((f"study-{name}", f"bench study {name}", _HOUR) for name in STUDIES),
        *(
            (f"serve-{name}", f"bench serve --workload {name} {OPTIONS}", 12 * _HOUR)
            for name in WORKLOADS
        ),
        ("calibration", f"calibrate --output {_PROFILE}", _HOUR),
        ("simulation-against", _AGAINST, _HOUR),
    ),
}  # fmt: skip
