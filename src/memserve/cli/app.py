"""The commands and their options; those that change a running cluster are in elastic.py.

Exit status: 0 done, 1 it went wrong on the way, 2 something that the operator can set right, 130 stopped at once.
What stands after `--` belongs to vLLM and is cut off before the options are read. Each command imports what it
needs when it is called, so that help and refusals come at once.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from memserve import __version__
from memserve.cli import bench, elastic
from memserve.cli.options import ServeOptions, serve_config
from memserve.cli.refusals import errors, refusals
from memserve.cli.secret import CaFile, SecretFile, access, opened, secret
from memserve.config import Network
from memserve.core.enums import AutoscaleMode, CachingMode, LauncherKind, TransferMode
from memserve.security.tls_files import TlsFiles

app = typer.Typer(
    name="memserve",
    help="Context caching and disaggregated serving at once, on stock vLLM.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"auto_envvar_prefix": "MEMSERVE"},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(bench.app)
_WITH_ENGINE = ("serve", "instance", "calibrate")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `memserve` command; ends with SystemExit."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    cut = typed.index("--") if "--" in typed else len(typed)
    app(args=typed[:cut], obj=tuple(typed[cut + 1 :]), prog_name="memserve")


def _version(wanted: bool | None) -> None:  # noqa: FBT001 - the shape that typer calls
    if wanted:
        sys.stdout.write(f"memserve {__version__}\n")
        raise typer.Exit


@app.callback()
def _all(
    context: typer.Context,
    *,
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = None,
) -> None:
    if context.obj and context.invoked_subcommand not in _WITH_ENGINE:
        errors.print(f"memserve: only {', '.join(_WITH_ENGINE)} take engine arguments after --")
        raise typer.Exit(2)


@app.command()
def serve(
    context: typer.Context,
    *,
    model: Annotated[
        str | None, typer.Argument(help="Folder or name that vLLM takes; none: the bundled model.")
    ] = None,
    prefill: Annotated[int | None, typer.Option(help="Prefill instances.")] = None,
    decode: Annotated[int | None, typer.Option(help="Decode instances.")] = None,
    colocated: Annotated[int | None, typer.Option(help="Instances that do both.")] = None,
    instances: Annotated[int | None, typer.Option(help="Instances that play any role, request by request.")] = None,
    caching: Annotated[CachingMode | None, typer.Option(help="Who keeps KV for later requests.")] = None,
    transfer: Annotated[TransferMode | None, typer.Option(help="How KV leaves the prefill instance.")] = None,
    policy: Annotated[str | None, typer.Option(help="How requests are routed.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="File of `memserve calibrate`; none: what was found here.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to serve on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to serve on; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes of the gateway, all at that port.")] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="PEM file: serve HTTPS with this certificate.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="PEM file of its key; none: it is in the same file.")] = None,
    dram: Annotated[str | None, typer.Option(help='Shared memory per instance, e.g. "2GiB".')] = None,
    ttl_s: Annotated[
        float | None, typer.Option("--ttl", help="Seconds after which KV is dropped; none: kept for ever.")
    ] = None,
    pin_share: Annotated[float | None, typer.Option(help="Share of a pool that may be pinned.")] = None,
    prefill_args: Annotated[
        str | None, typer.Option(help='Engine arguments of prefill instances only, e.g. "-tp 2".')
    ] = None,
    decode_args: Annotated[str | None, typer.Option(help="Engine arguments of decode instances only.")] = None,
    disk: Annotated[str | None, typer.Option(help='Folder and size per instance, e.g. "/var/cache/kv:200GiB".')] = None,
    name: Annotated[str | None, typer.Option(help="Of the cluster; none: made up.")] = None,
    manager: Annotated[str | None, typer.Option(help="HOST:PORT where instances join; none: a free port.")] = None,
    registry: Annotated[
        str | None, typer.Option(help="etcd://HOST:PORT,HOST:PORT, to share the cluster with other gateways.")
    ] = None,
    cluster_secret: SecretFile = None,
    max_restarts: Annotated[
        int | None, typer.Option(help="How often in a row an instance that ends is started again.")
    ] = None,
    launcher: Annotated[LauncherKind | None, typer.Option(help="Who runs the instances.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="HOST:PORT of the Ray cluster's head.")] = None,
    autoscale: Annotated[AutoscaleMode | None, typer.Option(help="Whether instances follow the load.")] = None,
    ttft_target_s: Annotated[float | None, typer.Option("--ttft-target", help="Seconds to a first token.")] = None,
    tpot_target_s: Annotated[float | None, typer.Option("--tpot-target", help="Seconds per token after it.")] = None,
    autoscale_bounds: Annotated[str | None, typer.Option(help='By role, "prefill=1:4,decode=1:4".')] = None,
    config: Annotated[Path | None, typer.Option(help="Settings as TOML; options typed here win.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and start nothing.")] = False,
) -> None:
    """Serve a model on a cluster of vLLM instances: memserve serve [MODEL] [OPTIONS] -- [ENGINE ARGUMENTS]"""
    typed = {name: value for name, value in locals().items() if name not in ("context", "dry_run")}
    options = ServeOptions(**typed, engine_args=context.obj or ())
    with refusals():
        settings = serve_config(options)
        from memserve.cli.serve import run_serve  # noqa: PLC0415

        raise typer.Exit(run_serve(settings, dry_run=dry_run))


@app.command()
def demo(
    *,
    json: Annotated[Path | None, typer.Option(help="Write all numbers to this file.")] = None,
) -> None:
    """Play real conversations on a small cluster and on plain vLLM, and compare tokens and times."""
    with refusals():
        from memserve.cli.demo import run_demo  # noqa: PLC0415

        raise typer.Exit(run_demo(json_file=json))


@app.command()
def status(
    *,
    url: Annotated[str, typer.Option(help="Where the gateway serves.")] = "http://127.0.0.1:8000",
    cluster_secret: SecretFile = None,
    ca: CaFile = None,
) -> None:
    """Show the instances of a running cluster and what they hold."""
    with refusals():
        from memserve.cli.status import show_status  # noqa: PLC0415

        show_status(url, access(cluster_secret, ca))


for _command in (elastic.instance, elastic.scale, elastic.drain, elastic.role, secret):
    app.command()(_command)


@app.command()
def pool(
    *,
    join: Annotated[str, typer.Option(help="URL of the gateway, or HOST:PORT of its cluster manager.")],
    dram: Annotated[str, typer.Option(help='Shared memory for KV, e.g. "8GiB".')] = "1GiB",
    disk: Annotated[str, typer.Option(help='Folder and size of a disk tier, e.g. "/var/cache/kv:200GiB".')] = "",
    name: Annotated[str, typer.Option(help="Unique in the cluster; default: from the process or the disk.")] = "",
    bind: Annotated[str, typer.Option(help="Address on which it listens.")] = "127.0.0.1",
    advertise: Annotated[str, typer.Option(help="Address that the others connect to, where it is another.")] = "",
    cluster_secret: SecretFile = None,
    tls_certificate: Annotated[str, typer.Option(help="PEM file; with --tls-key and --tls-ca.")] = "",
    tls_key: Annotated[str, typer.Option(help="PEM file of the certificate's key.")] = "",
    tls_ca: Annotated[str, typer.Option(help="PEM file of the CA of the cluster's certificates.")] = "",
    ca: CaFile = None,
    hand_on: Annotated[bool, typer.Option("--hand-on", help="Give what it holds to others before leaving.")] = False,
) -> None:
    """Give a running cluster more memory: an instance without an engine that holds what the others have no room for."""
    with refusals():
        from memserve.cli.pool import PoolOptions, run_pool  # noqa: PLC0415

        tls = TlsFiles(certificate=tls_certificate, key=tls_key, ca=tls_ca)
        network = Network(bind=bind, advertise=advertise, tls=tls, secret=opened(cluster_secret))
        run_pool(
            PoolOptions(
                join=join,
                ca=str(ca.expanduser()) if ca else "",
                dram=dram,
                disk=disk,
                name=name,
                network=network,
                hand_on=hand_on,
            )
        )


@app.command()
def resize(
    instance: Annotated[str, typer.Argument(help="As `memserve status` names it.")],
    *,
    dram: Annotated[str, typer.Option(help='Shared memory it shall have, e.g. "2GiB".')],
    url: Annotated[str, typer.Option(help="Where the gateway serves.")] = "http://127.0.0.1:8000",
    cluster_secret: SecretFile = None,
    ca: CaFile = None,
) -> None:
    """Grow or shrink the memory of a running instance's pool."""
    with refusals():
        from memserve.cli.resize import run_resize  # noqa: PLC0415

        run_resize(instance, dram=dram, url=url, access=access(cluster_secret, ca))


@app.command()
def explain(
    request: Annotated[str, typer.Argument(help="Its id: the x-request-id of the answer.")],
    *,
    url: Annotated[str, typer.Option(help="Where the gateway serves.")] = "http://127.0.0.1:8000",
    cluster_secret: SecretFile = None,
    ca: CaFile = None,
) -> None:
    """Say why a request went where it went, and what was predicted beside what came of it."""
    with refusals():
        from memserve.cli.explain import show_explanation  # noqa: PLC0415

        show_explanation(request, url, access(cluster_secret, ca))


@app.command()
def calibrate(
    context: typer.Context,
    *,
    model: Annotated[
        str | None, typer.Argument(help="Folder or name that vLLM takes; none: the bundled model.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings of `memserve serve` as TOML.")] = None,
    dram: Annotated[str | None, typer.Option(help='Shared memory of the instance, e.g. "2GiB".')] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="Measure for about so long, once it has started.")] = 110.0,
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Write the profile here; none: where `serve` looks.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw fit and measurement (.png, .svg, .pdf).")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all numbers to this file.")] = None,
) -> None:
    """Measure what serving costs here: memserve calibrate [MODEL] [OPTIONS] -- [ENGINE ARGUMENTS]"""
    options = ServeOptions(model=model, colocated=1, dram=dram, port=0, config=config, engine_args=context.obj or ())
    with refusals():
        from memserve.cli.calibrate import CalibrateOptions, run_calibrate  # noqa: PLC0415

        wanted = CalibrateOptions(seconds=seconds, seed=seed, output=output, figure=figure, json=json)
        raise typer.Exit(run_calibrate(serve_config(options), wanted))


@app.command()
def simulate(
    trace: Annotated[
        Path,
        typer.Argument(
            help="Mooncake's .jsonl (hashes of prefix blocks), Azure's .csv (lengths), or a made-up workload: "
            "prefill-heavy, decode-heavy, shared-prefix, multi-turn, bursts, mixed, day, day:HOURS."
        ),
    ],
    *,
    instances: Annotated[str, typer.Option(help="Numbers of instances, with commas.")] = "4,16,64,256",
    layout: Annotated[
        str, typer.Option(help="Their roles, with commas: colocated, flexible, disaggregated, 3p1d.")
    ] = "colocated",
    answers: Annotated[
        bool, typer.Option("--answers", help="Cache answers, too, where a later prompt of the trace goes on after one.")
    ] = False,
    policy: Annotated[
        str, typer.Option(help="Routing policies, with commas.")
    ] = "prompt-tree,least-load,session,round-robin,power-of-two",
    profile: Annotated[str, typer.Option(help="Cost profile: a name or a file.")] = "h800-llama2-13b-tp2",
    pool_blocks: Annotated[
        int | None, typer.Option(help="Blocks of 512 tokens that each instance's pool holds; none: enough for all.")
    ] = None,
    eviction: Annotated[str, typer.Option(help="What a full pool lets go of.")] = "lru",
    ttl_s: Annotated[float, typer.Option(help="How long the scheduler believes what no event confirmed.")] = 600.0,
    confirm_s: Annotated[
        float, typer.Option(help="How long it believes what it sent, until events confirm it.")
    ] = 30.0,
    speed: Annotated[float, typer.Option(help="Play the trace this many times as fast.")] = 1.0,
    rate_for: Annotated[
        int | None,
        typer.Option(min=1, help="Play it at that speed to so many instances and in proportion to others."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice among equals.")] = 0,
    max_requests: Annotated[int | None, typer.Option(min=1, help="Only the first ones of the trace.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all numbers to this file.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw them into this file (.png, .svg, .pdf).")] = None,
    autoscale: Annotated[
        str | None,
        typer.Option(help='Play a cluster that follows its load, too: least and most by role, "colocated=1:8".'),
    ] = None,
    ttft_target_s: Annotated[float, typer.Option("--ttft-target", help="Seconds to the first token.")] = 2.0,
    tpot_target_s: Annotated[float, typer.Option("--tpot-target", help="Seconds per token after it.")] = 0.1,
    target_share: Annotated[float, typer.Option(help="Of the requests that are to keep both.")] = 0.9,
) -> None:
    """Play a trace against the real scheduler and pools, with modelled compute."""
    typed = dict(locals())
    with refusals():
        from memserve.cli.simulate import SimulateOptions, run_simulate  # noqa: PLC0415

        run_simulate(SimulateOptions(**typed))


@app.command()
def simulate_cache(
    trace: Annotated[Path, typer.Argument(help="Mooncake's .jsonl (hashes of prefix blocks).")],
    *,
    capacities: Annotated[str, typer.Option(help="Blocks of 512 tokens, with commas.")] = "1000,3000,10000,30000",
    policies: Annotated[
        str, typer.Option(help="Eviction policies, with commas; belady is the offline optimum.")
    ] = "lru,lfu,fifo,adaptive,belady",
    max_requests: Annotated[int | None, typer.Option(min=1, help="Only the first ones of the trace.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all numbers to this file.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw them into this file (.png, .svg, .pdf).")] = None,
) -> None:
    """Replay a trace through one pool: hit ratio by eviction policy and capacity, beside the optimum."""
    with refusals():
        from memserve.cli.simulate import SimulateCacheOptions, run_simulate_cache  # noqa: PLC0415

        run_simulate_cache(
            SimulateCacheOptions(
                trace=trace,
                capacities=capacities,
                policies=policies,
                max_requests=max_requests,
                json=json,
                figure=figure,
            )
        )
