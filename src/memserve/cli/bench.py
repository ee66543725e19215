"""`memserve bench ...`: measures memserve beside its peers, prints the table and writes JSON and a figure."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from memserve.cli import simulated
from memserve.cli.refusals import refusals
from memserve.config import MAX_WORKERS
from memserve.core.errors import ConfigError, MemserveError

if TYPE_CHECKING:
    from memserve.bench.records import Report
    from memserve.bench.study.record import Size

app = typer.Typer(
    name="bench",
    help="Measure memserve beside its peers and the machine's limits (peers: make bench-peers).",
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.add_typer(simulated.app)

Json = Annotated[Path, typer.Option("--json", help="Write all numbers to this file.")]
Figure = Annotated[Path | None, typer.Option(help="Draw the numbers into this SVG file (needs matplotlib).")]
Peers = Annotated[Path, typer.Option(help="Folder of the peers' virtual environments.")]
PEERS = Path(".venv-bench")
PAGE = Path("docs", "evaluation.md")
DATA = Path("../shared/data")
SYSTEMS = (
    "Names with commas: vllm, vllm-apc, vllm-nixl, vllm-nixl-bidirectional; colocated, basic, prefill, both, return "
    "(the last four also with -by-layer or -by-request), auto."
)


@app.command()
def index(
    *,
    json: Json,
    figure: Figure = None,
    peers: Peers = PEERS,
    scale: Annotated[int, typer.Option(min=1, max=10, help="Measure a fraction 1/N of the 10,000 prompts.")] = 1,
    systems: Annotated[str, typer.Option(help="Names with commas.")] = "memserve,dynamo,sglang,vllm",
) -> None:
    """Radix index: match, insert and memory, beside Dynamo, SGLang and vLLM."""
    from memserve.bench.index import IndexPlan, run_index  # noqa: PLC0415

    plan = IndexPlan(scale=scale, systems=tuple(name.strip() for name in systems.split(",") if name.strip()))
    _run(lambda: run_index(peers=peers, plan=plan, say=_say), json=json, figure=figure)


@app.command()
def scheduler(
    *,
    json: Json,
    figure: Figure = None,
    peers: Peers = PEERS,
    scale: Annotated[int, typer.Option(min=1, max=64, help="Know of a fraction 1/N of the million blocks.")] = 1,
) -> None:
    """Global scheduler: decisions and events over 64 instances, beside Dynamo's prompt tree."""
    from memserve.bench.scheduler import SchedulerPlan, run_scheduler  # noqa: PLC0415

    plan = SchedulerPlan(scale=scale)
    _run(lambda: run_scheduler(peers=peers, plan=plan, say=_say), json=json, figure=figure)


@app.command()
def pool(*, json: Json, figure: Figure = None, peers: Peers = PEERS) -> None:
    """Memory pool: allocation, and 64 MiB put and got back, beside LMCache and a plain copy."""
    from memserve.bench.pool import PoolPlan, run_pool  # noqa: PLC0415

    _run(lambda: run_pool(peers=peers, plan=PoolPlan(), say=_say), json=json, figure=figure)


@app.command()
def transfer(*, json: Json, figure: Figure = None, peers: Peers = PEERS) -> None:
    """Blocks between two processes, by shared memory and TCP, beside NIXL, Mooncake and the machine's limits."""
    from memserve.bench.transfer import TransferPlan, run_transfer  # noqa: PLC0415

    _run(lambda: run_transfer(peers=peers, plan=TransferPlan(), say=_say), json=json, figure=figure)


@app.command()
def swap(
    *,
    json: Json,
    figure: Figure = None,
    device: Annotated[str, typer.Option(help="cuda, or cpu, which says nothing about a GPU.")] = "cuda",
    blocks: Annotated[int, typer.Option(min=1, help="Moved in each call.")] = 64,
    rounds: Annotated[int, typer.Option(min=1)] = 30,
) -> None:
    """HBM to host memory and back: MemPool and gathered pages beside one pinned copy and a copy for each piece."""
    try:
        from memserve.bench.swap import SwapPlan, run_swap  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _say(f"memserve: bench swap needs torch, which an engine brings ({error}): run `make setup`")
        raise typer.Exit(1) from error

    plan = SwapPlan(device=device, num_blocks=blocks, num_rounds=rounds)
    _run(lambda: run_swap(plan=plan, say=_say), json=json, figure=figure)


@app.command()
def gateway(
    *,
    json: Json,
    peers: Peers = PEERS,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each load in each round.")] = 2.0,
    workers: Annotated[
        int, typer.Option(min=1, max=MAX_WORKERS, help="Measure our gateway with so many processes, too; 1: do not.")
    ] = 2,
) -> None:
    """Gateway: requests a second and added latency, beside vllm-router and sglang-router."""
    from memserve.bench.gateway import GatewayPlan, as_gateway_lines, run_gateway  # noqa: PLC0415

    try:
        plan = GatewayPlan(num_rounds=rounds, seconds=seconds, num_workers=workers)
        report = run_gateway(peers=peers, plan=plan, say=_say)
        report.write(json)
        for line in as_gateway_lines(report):
            typer.echo(line)
    except MemserveError as error:
        _say(f"memserve: {error}")
        raise typer.Exit(1) from error


@app.command()
def serve(
    *,
    json: Json,
    workload: Annotated[str, typer.Option(help="sharegpt, loogle, react, or a .jsonl file in the ShareGPT form.")],
    systems: Annotated[str, typer.Option(help=SYSTEMS)],
    rate: Annotated[str, typer.Option(help="Sessions that arrive in a second; several with commas.")],
    sessions: Annotated[int, typer.Option(min=1, help="To play at each rate.")] = 20,
    repetitions: Annotated[int, typer.Option(min=1, help="Of everything; they alternate between systems.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn from the data, and of arrivals.")] = 0,
    model: Annotated[str, typer.Option(help="Folder of the model; none: the bundled one.")] = "",
    data: Annotated[Path, typer.Option(help="Folder that holds loogle/ and react/.")] = DATA,
    peers: Peers = PEERS,
    discard: Annotated[bool, typer.Option("--discard", help="Forget what an earlier run left beside FILE.")] = False,
) -> None:
    """Whole systems: the same sessions on plain vLLM, on its own splits and on each mode of memserve."""
    with refusals():
        from memserve.cli.bench_serve import ServeOptions, run_serve_bench  # noqa: PLC0415

        options = ServeOptions(
            json=json,
            workload=workload,
            systems=systems,
            rates=rate,
            num_sessions=sessions,
            num_repetitions=repetitions,
            seed=seed,
            model=model,
            data=data,
            peers=peers,
        )
        raise typer.Exit(run_serve_bench(options, discarding=discard))


@app.command()
def study(
    name: Annotated[
        str, typer.Argument(help="prefill, layers, routing, swap (each on vLLM); layout, routing-simulated.")
    ],
    *,
    json: Json,
    figure: Figure = None,
    size: Annotated[str, typer.Option(help="quick (two minutes at most) or full.")] = "full",
    seed: Annotated[int, typer.Option(help="Of prompts and made-up workloads.")] = 0,
) -> None:
    """A micro-study of the paper's evaluation: one question, its points and its figure."""
    with refusals():
        from memserve.cli.study import StudyOptions, run_one_study  # noqa: PLC0415

        options = StudyOptions(name=name, size=_size(size), seed=seed, json=json, figure=figure)
        raise typer.Exit(run_one_study(options, say=_say))


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="Folder of results, such as benchmarks/results.")],
    *,
    out: Annotated[Path, typer.Option(help="Write evaluation.md and its figures into this folder.")] = Path("docs"),
    page: Annotated[Path, typer.Option(help="The page whose marked places are filled.")] = PAGE,
) -> None:
    """Make the tables and figures of docs/evaluation.md again, from the files of results."""
    with refusals():
        from memserve.cli.evaluation import run_report  # noqa: PLC0415

        raise typer.Exit(run_report(results, out=out, page=page, say=_say))


@app.command()
def evaluation(
    results: Annotated[Path, typer.Argument(help="Folder of results; what is there is not measured again.")],
    *,
    out: Annotated[Path, typer.Option(help="Write evaluation.md and its figures into this folder.")] = Path("docs"),
    page: Annotated[Path, typer.Option(help="The page whose marked places are filled.")] = PAGE,
    size: Annotated[str, typer.Option(help="quick (a quarter of an hour) or full (most of a day).")] = "full",
    only: Annotated[str, typer.Option(help="Parts to make, with commas; none: all.")] = "",
) -> None:
    """Measure everything that the report shows, part after part, then make the report. Goes on where it was stopped."""
    with refusals():
        from memserve.cli.evaluation import EvaluationOptions, run_evaluation  # noqa: PLC0415

        options = EvaluationOptions(results=results, out=out, page=page, size=_size(size), only=only)
        raise typer.Exit(run_evaluation(options, say=_say))


def _size(text: str) -> "Size":
    from memserve.bench.study.record import Size  # noqa: PLC0415

    if text not in set(Size):
        raise ConfigError(f'--size "{text}": choose one of {", ".join(Size)}')
    return Size(text)


def _say(line: str) -> None:
    Console(stderr=True, highlight=False).print(line, markup=False)


def _run(measure: Callable[[], "Report"], *, json: Path, figure: Path | None) -> None:
    from memserve.bench.table import as_lines  # noqa: PLC0415

    try:
        report = measure()
        report.write(json)
        for line in as_lines(report):
            typer.echo(line)
        if figure is not None:
            from memserve.bench.figures import draw  # noqa: PLC0415

            draw(report, figure)
    except MemserveError as error:
        _say(f"memserve: {error}")
        raise typer.Exit(1) from error
