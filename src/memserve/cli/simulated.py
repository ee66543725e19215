"""`memserve bench simulated ...`: what is typed, played, printed and written. Decides nothing."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from memserve.cli.refusals import refusals
from memserve.core.errors import ConfigError

if TYPE_CHECKING:
    from memserve.bench.serve.sessions import Words
    from memserve.bench.simulated.record import MemoryResult, PaperResult

app = typer.Typer(
    name="simulated",
    help="What this machine is too small for, in simulation: the paper's evaluation, costs, and how far to trust it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Json = Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file.")]
Figure = Annotated[Path | None, typer.Option(help="Draw them into this file (.png, .svg, .pdf).")]
Profile = Annotated[str, typer.Option(help="Cost profile: a name or a file.")]
Data = Annotated[Path, typer.Option(help="Folder with the folders loogle and react.")]
Model = Annotated[Path | None, typer.Option(help="Model folder whose tokenizer counts; none: the bundled model.")]
PROFILE = "h800-llama2-13b-tp2"


@app.command()
def paper(
    *,
    workloads: Annotated[str, typer.Option(help="With commas.")] = "sharegpt,loogle,react",
    sessions: Annotated[int, typer.Option(min=1, help="Of each workload, as far as its data has so many.")] = 600,
    seeds: Annotated[int, typer.Option(min=1, help="So many runs, of which medians are told.")] = 3,
    loads: Annotated[
        str, typer.Option(help="PD-Basic's average TTFT, as many times that of an idle cluster; with commas.")
    ] = "2,4",
    profile: Profile = PROFILE,
    data: Data = Path("../shared/data"),
    model: Model = None,
    json: Json = None,
    figure: Figure = None,
) -> None:
    """The paper's workloads, systems and gains with 4 instances, beside the paper's figures."""
    with refusals():
        from memserve.bench.simulated.figures import draw_paper  # noqa: PLC0415
        from memserve.bench.simulated.origin import origin  # noqa: PLC0415
        from memserve.bench.simulated.paper import PaperPlan, play_paper, scaling  # noqa: PLC0415
        from memserve.bench.simulated.record import PaperReport, write_study  # noqa: PLC0415
        from memserve.bench.simulated.tables import paper_table  # noqa: PLC0415
        from memserve.simulator.profiles import load_profile  # noqa: PLC0415

        plan = PaperPlan(
            profile=load_profile(profile),
            data=data,
            words=_words(model),
            workloads=tuple(_names(workloads)),
            num_sessions=sessions,
            seeds=tuple(range(seeds)),
            loads=tuple(_numbers(loads, "--loads")),
        )
        console = Console(highlight=False)
        with console.status("simulating") as status:

            def tell(row: "PaperResult") -> None:
                status.update(f"simulated {row.workload} at {row.rate:g} requests/s: {row.system}")

            results = play_paper(plan, each=tell)
        report = PaperReport(
            study="paper",
            origin=origin(),
            profile=plan.profile.identity,
            profile_source=plan.profile.source,
            seeds=plan.seeds,
            scaling=scaling(plan),
            results=tuple(results),
        )
        console.print(paper_table(report))
        if json is not None:
            write_study(report, json)
        if figure is not None:
            draw_paper(report, figure)


@app.command()
def against(
    runs: Annotated[list[Path], typer.Argument(help="JSON files of `memserve bench serve`; their lines lie beside.")],
    *,
    profile: Annotated[str, typer.Option(help="What `memserve calibrate` measured on the same machine.")],
    data: Data = Path("../shared/data"),
    model: Model = None,
    json: Json = None,
) -> None:
    """The simulator beside real runs: the same requests at the same moments."""
    with refusals():
        from memserve.bench.simulated.against import AgainstPlan, play_against  # noqa: PLC0415
        from memserve.bench.simulated.origin import origin  # noqa: PLC0415
        from memserve.bench.simulated.record import AgainstReport, write_study  # noqa: PLC0415
        from memserve.bench.simulated.tables import against_table  # noqa: PLC0415
        from memserve.manager.model_facts import read_model_facts  # noqa: PLC0415
        from memserve.simulator.profiles import load_profile  # noqa: PLC0415

        folder = _model(model)
        plan = AgainstPlan(
            runs=tuple(runs),
            profile=load_profile(profile),
            data=data,
            words=_words(model),
            context=read_model_facts(folder).max_tokens or sys.maxsize,
        )
        results, left_out = play_against(plan)
        report = AgainstReport(
            study="against",
            origin=origin(),
            profile=plan.profile.identity,
            profile_source=plan.profile.source,
            seeds=(0,),
            runs=tuple(run.name for run in runs),
            left_out=tuple(left_out),
            results=tuple(results),
        )
        console = Console(highlight=False)
        console.print(against_table(report))
        if left_out:
            console.print(f"left out, as the simulator has nothing like them: {', '.join(left_out)}")
        if json is not None:
            write_study(report, json)


@app.command()
def cost(
    trace: Annotated[Path, typer.Argument(help="Mooncake's .jsonl or Azure's .csv.")],
    *,
    ttft: Annotated[float, typer.Option(min=0.001, help="Seconds to the first token, on average, that suffice.")] = 1.0,
    price: Annotated[
        float, typer.Option(min=0.0, help="Dollars for an hour of one GPU; see docs/simulation.md for the default.")
    ] = 2.5,
    gpus: Annotated[int, typer.Option(min=1, help="Of an instance.")] = 2,
    most: Annotated[int, typer.Option(min=1, help="Instances, at most.")] = 64,
    speed: Annotated[float, typer.Option(help="Play the trace this many times as fast.")] = 1.0,
    max_requests: Annotated[int | None, typer.Option(min=1, help="Only the first ones of the trace.")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice among equals.")] = 0,
    profile: Profile = "h100-llama2-13b-tp2",
    json: Json = None,
) -> None:
    """The fewest instances that keep TTFT, with caching and without, and what a million tokens costs on them."""
    with refusals():
        from memserve.bench.simulated.cost import CostPlan, play_cost  # noqa: PLC0415
        from memserve.bench.simulated.origin import origin  # noqa: PLC0415
        from memserve.bench.simulated.record import CostReport, write_study  # noqa: PLC0415
        from memserve.bench.simulated.tables import cost_table  # noqa: PLC0415
        from memserve.simulator.profiles import load_profile  # noqa: PLC0415
        from memserve.simulator.trace import load_trace  # noqa: PLC0415

        plan = CostPlan(
            trace=load_trace(trace, max_requests=max_requests),
            profile=load_profile(profile),
            ttft_s=ttft,
            price_per_gpu_hour=price,
            gpus_per_instance=gpus,
            most_instances=most,
            speed=speed,
            seed=seed,
        )
        console = Console(highlight=False)
        with console.status("simulating"):
            results = play_cost(plan)
        report = CostReport(
            study="cost",
            origin=origin(),
            profile=plan.profile.identity,
            profile_source=plan.profile.source,
            seeds=(seed,),
            trace=plan.trace.name,
            requests=len(plan.trace.requests),
            ttft_s=ttft,
            price_per_gpu_hour=price,
            results=tuple(results),
        )
        console.print(cost_table(report))
        if json is not None:
            write_study(report, json)


@app.command()
def memory(
    trace: Annotated[Path, typer.Argument(help="Mooncake's .jsonl or Azure's .csv.")],
    *,
    instances: Annotated[int, typer.Option(min=1)] = 16,
    pool_blocks: Annotated[int, typer.Option(min=1, help="Blocks of 512 tokens in each small pool.")] = 750,
    speed: Annotated[float, typer.Option(help="Play the trace this many times as fast.")] = 1.0,
    max_requests: Annotated[int | None, typer.Option(min=1, help="Only the first ones of the trace.")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice among equals.")] = 0,
    profile: Profile = PROFILE,
    json: Json = None,
) -> None:
    """What memory instances buy beside small pools, and what bringing prefixes elsewhere ahead of need buys."""
    with refusals():
        from memserve.bench.simulated.memory import MemoryPlan, play_memory  # noqa: PLC0415
        from memserve.bench.simulated.origin import origin  # noqa: PLC0415
        from memserve.bench.simulated.record import MemoryReport, write_study  # noqa: PLC0415
        from memserve.bench.simulated.tables import memory_table  # noqa: PLC0415
        from memserve.simulator.profiles import load_profile  # noqa: PLC0415
        from memserve.simulator.trace import load_trace  # noqa: PLC0415
        from memserve.simulator.workloads import made_up  # noqa: PLC0415

        plan = MemoryPlan(
            trace=load_trace(trace, max_requests=max_requests),
            shared_prefix=made_up("shared-prefix", seed=seed),
            profile=load_profile(profile),
            instances=instances,
            pool_blocks=pool_blocks,
            speed=speed,
            seed=seed,
        )
        console = Console(highlight=False)
        with console.status("simulating") as status:

            def tell(row: "MemoryResult") -> None:
                status.update(f"simulated {row.cluster}")

            results = play_memory(plan, each=tell)
        report = MemoryReport(
            study="memory",
            origin=origin(),
            profile=plan.profile.identity,
            profile_source=plan.profile.source,
            seeds=(seed,),
            results=tuple(results),
        )
        console.print(memory_table(report))
        if json is not None:
            write_study(report, json)


def _words(model: Path | None) -> "Words":
    from memserve.bench.serve.sessions import Words  # noqa: PLC0415

    return Words.of_model(_model(model))


def _model(model: Path | None) -> Path:
    from memserve.bundled.model import bundled_model, cache_folder  # noqa: PLC0415

    return model or bundled_model(cache_folder(os.environ))


def _names(text: str) -> Sequence[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str, option: str) -> Sequence[float]:
    try:
        numbers = [float(name) for name in _names(text)]
    except ValueError as error:
        raise ConfigError(f'{option} "{text}" is no list of numbers such as 2,4') from error
    if not numbers or min(numbers) <= 0:
        raise ConfigError(f'{option} "{text}": give at least one number, all above 0')
    return numbers
