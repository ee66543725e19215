"""`memserve bench evaluation` and `bench report`: the summary on the terminal and the exit status. Measures nothing."""

import signal
from pathlib import Path

import msgspec
import typer

from memserve.bench.child import Say
from memserve.bench.evaluation.parts import Part, parts_of
from memserve.bench.evaluation.run import run_parts
from memserve.bench.report.make import PAGE, make_page
from memserve.bench.study.record import Size
from memserve.core.errors import ConfigError


class EvaluationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`memserve bench evaluation` as typed."""

    results: Path
    out: Path
    page: Path
    size: Size
    only: str


def run_evaluation(options: EvaluationOptions, *, say: Say) -> int:
    """Measure what is not there yet and make the page; 1 when a part or a section failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the part that runs is ended with this process
    parts = _chosen(parts_of(options.size), options.only)
    outcomes = run_parts(parts, results=options.results, say=say)
    status = run_report(options.results, out=options.out, page=options.page, say=say)
    failed = [outcome for outcome in outcomes if outcome.problem]
    for outcome in failed:
        typer.echo(f"failed: {outcome.part}: {outcome.problem}")
    minutes = sum(outcome.seconds for outcome in outcomes) / 60
    typer.echo(f"{len(outcomes) - len(failed)} of {len(outcomes)} parts have a result; measured for {minutes:.1f} min")
    return 1 if failed else status


def run_report(results: Path, *, out: Path, page: Path, say: Say) -> int:
    """Make the page; 1 when a file of results could not be used. What is missing so far is no failure."""
    made = make_page(results, page=page, out=out, say=say)
    typer.echo(f"{out / PAGE}: {len(made.filled)} sections made from {results}")
    if made.missing:
        typer.echo(f"no results yet: {', '.join(made.missing)}")
    return 1 if made.broken else 0


def _chosen(parts: list[Part], only: str) -> list[Part]:
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    unknown = set(wanted) - {part.name for part in parts}
    if unknown:
        names = ", ".join(part.name for part in parts)
        raise ConfigError(f'--only: there is no part "{sorted(unknown)[0]}": choose among {names}')
    return [part for part in parts if not wanted or part.name in wanted]
