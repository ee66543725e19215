"""What a run has shown, for all requests and by fault: a request counts for every fault that was felt while it ran."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.chaos.faults import Window
from tests.chaos.load import Ended

NO_FAULT = "none"


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Of requests. `left` are those whose clients went away on purpose: not sent, not judged."""

    times: int = 0
    """How often the fault was made."""
    sent: int = 0
    right: int = 0
    wrong: int = 0
    failed: int = 0
    resumed: int = 0
    """Streams that another instance carried on."""
    retried: int = 0
    """Asked again by the client because there was no gateway."""
    left: int = 0
    slowest_s: float = 0.0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Of one cluster."""

    cluster: str
    seconds: float
    total: Tally
    by_fault: dict[str, Tally]
    leaked: list[str]
    failures: list[str]
    """Of the cluster rather than of a request: it did not come back."""
    not_run: dict[str, str]

    @property
    def is_well(self) -> bool:
        return not (self.total.wrong or self.total.failed or self.leaked or self.failures)


def verdict(
    cluster: str,
    ended: Sequence[Ended],
    windows: Sequence[Window],
    *,
    seconds: float,
    leaked: list[str],
    failures: list[str],
    not_run: dict[str, str],
) -> Verdict:
    by_fault: dict[str, list[Ended]] = {NO_FAULT: []}
    for one in ended:
        felt = {w.kind for w in windows if w.start < one.end and w.end > one.start} or {NO_FAULT}
        for kind in felt:
            by_fault.setdefault(kind, []).append(one)
    times = Counter(window.kind for window in windows)
    return Verdict(
        cluster=cluster,
        seconds=round(seconds, 1),
        total=_tally(ended, times=len(windows)),
        by_fault={kind: _tally(those, times=times[kind]) for kind, those in sorted(by_fault.items())},
        leaked=leaked,
        failures=failures,
        not_run=not_run,
    )


def tell(verdicts: Iterable[Verdict]) -> str:
    """The last line of a run."""
    totals = [v.total for v in verdicts]
    counts = {name: sum(getattr(t, name) for t in totals) for name in ("sent", "right", "wrong", "failed", "resumed")}
    leaked = sum(len(v.leaked) for v in verdicts)
    return "chaos: " + " ".join(f"{name} {count}" for name, count in (*counts.items(), ("leaked", leaked)))


def show(found: Verdict) -> str:
    """A table, and what went wrong."""
    names = ("times", "sent", "right", "wrong", "failed", "resumed", "retried", "slowest_s")
    lines = [f"{found.cluster}, {found.seconds:g} s", "".join(f"{n:>10}" for n in ("", *names))]
    for kind, tally in (*found.by_fault.items(), ("all", found.total)):
        lines.append(f"{kind:<20}" + "".join(f"{getattr(tally, n):>10g}" for n in names))
    lines[1] = " " * 20 + "".join(f"{n:>10}" for n in names)
    lines += [f"LEAKED {item}" for item in found.leaked] + [f"FAILED {item}" for item in found.failures]
    lines += [f"not run: {kind}: {why}" for kind, why in found.not_run.items()]
    return "\n".join(lines)


def write_json(path: Path, verdicts: Sequence[Verdict], **more: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode({**more, "line": tell(verdicts), "clusters": verdicts})))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _tally(ended: Sequence[Ended], *, times: int) -> Tally:
    counts = Counter(one.verdict for one in ended)
    stayed = [one for one in ended if one.verdict != "left"]
    return Tally(
        times=times,
        sent=len(stayed),
        right=counts["right"],
        wrong=counts["wrong"],
        failed=counts["failed"],
        left=counts["left"],
        resumed=sum(one.num_resumes > 0 for one in stayed),
        retried=sum(one.num_retries > 0 for one in stayed),
        slowest_s=round(max((one.end - one.start for one in stayed), default=0.0), 1),
    )
