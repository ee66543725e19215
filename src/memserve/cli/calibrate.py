"""`memserve calibrate`: the table of the fit and the exit status. Owns what is printed and the JSON file."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memserve.calibration.figure import draw_calibration
from memserve.calibration.measurements import Calibration, Fit
from memserve.calibration.run import Calibrated, calibrated_config, run_calibration
from memserve.cli.serve import log_to_stderr, prepared
from memserve.config import ServeConfig
from memserve.serving.prepare import PreparedRun
from memserve.serving.signals import StopSignals

_STOPPED = 130


class CalibrateOptions(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    seed: int
    output: Path | None
    figure: Path | None
    json: Path | None


def run_calibrate(config: ServeConfig, options: CalibrateOptions) -> int:
    """Measure, print, write; exit status. Raises ConfigError when it cannot start or was not able to fit."""
    log_to_stderr()
    console = Console(highlight=False, soft_wrap=True)
    run = prepared(calibrated_config(config))
    done = uvloop.run(_run(run, options, console))
    if done is None:
        return _STOPPED
    console.print(render(done.calibration))
    found = "" if options.output else ", where `memserve serve` finds it"
    console.print(f"profile: {done.file}{found}", markup=False)
    if options.figure is not None:
        draw_calibration(done.calibration, options.figure)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(done.calibration), indent=2) + b"\n")
    return 0


def render(calibration: Calibration) -> Table:
    """One row for each kind: its terms, and how far it is off where the fit never looked."""
    profile = calibration.profile
    prefill, decode = profile.prefill, profile.decode
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in ("what", "terms", "points", "median error", "P90 error"):
        table.add_column(heading)
    table.add_row(
        "prefill",
        f"{prefill.fixed_s * 1e3:.1f} ms + {prefill.per_token_s * 1e6:.1f} us a token + "
        f"{prefill.per_pair_s * 1e9:.2f} ns a pair + {prefill.per_cached_token_s * 1e6:.2f} us a cached token",
        *_judgement(calibration.prefill),
    )
    table.add_row(
        "decode step",
        f"{decode.fixed_s * 1e3:.1f} ms + {decode.per_sequence_s * 1e3:.2f} ms a sequence + "
        f"{decode.per_context_token_s * 1e6:.2f} us a token of context",
        *_judgement(calibration.decode),
    )
    for fit in calibration.paths:
        path = profile.paths[fit.kind]
        terms = f"{path.latency_s * 1e3:.2f} ms + {path.bytes_per_s / 1e9:.2f} GB/s"
        table.add_row(f"path {fit.kind}", terms, *_judgement(fit))
    return table


def _judgement(fit: Fit[Any]) -> tuple[str, str, str]:
    unseen = sum(point.judges for point in fit.points)
    points = f"{len(fit.points) - unseen} + {unseen}"
    return (points, "-", "-") if fit.error is None else (points, f"{fit.error.median:.1%}", f"{fit.error.p90:.1%}")


async def _run(run: PreparedRun, options: CalibrateOptions, console: Console) -> Calibrated | None:
    """None when it was stopped from outside."""
    signals = StopSignals.of_this_task()
    try:
        return await run_calibration(
            run,
            seconds=options.seconds,
            output=options.output,
            seed=options.seed,
            tell=lambda line: console.print(line, markup=False),
        )
    except asyncio.CancelledError:
        if not signals.asked_to_stop:
            raise
        return None
