"""`memserve bench study`: the signals, the lines on the terminal and the files of one study. Measures nothing."""

import asyncio
from pathlib import Path

import msgspec
import typer
import uvloop

from memserve.bench.charts import draw_charts
from memserve.bench.child import Say
from memserve.bench.study.base import Served
from memserve.bench.study.figure import study_charts
from memserve.bench.study.record import Size, StudyReport
from memserve.bench.study.run import run_study, served_here
from memserve.bench.study.table import study_lines
from memserve.cli.serve import log_to_stderr, prepared
from memserve.serving.signals import StopSignals

_STOPPED = 130


class StudyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`memserve bench study` as typed."""

    name: str
    size: Size
    seed: int
    json: Path
    figure: Path | None


def run_one_study(options: StudyOptions, *, say: Say) -> int:
    """Measure, print, write; exit status. Nothing is written unless it finished."""
    log_to_stderr()
    report = uvloop.run(_run(options, served_here(prepared, seed=options.seed, say=say), say))
    if report is None:
        return _STOPPED
    report.write(options.json)
    for line in study_lines(report):
        typer.echo(line)
    if options.figure is not None:
        draw_charts(study_charts(report), options.figure)
    return 0


async def _run(options: StudyOptions, served: Served, say: Say) -> StudyReport | None:
    """None when it was stopped from outside."""
    signals = StopSignals.of_this_task()
    try:
        return await run_study(options.name, size=options.size, seed=options.seed, say=say, served=served)
    except asyncio.CancelledError:
        if not signals.asked_to_stop:
            raise
        return None
