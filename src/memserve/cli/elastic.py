"""`memserve instance`, `scale`, `drain` and `role`: what is typed. What they need is imported when they are called."""

from typing import Annotated

import typer

from memserve.cli.refusals import refusals
from memserve.cli.secret import CaFile, SecretFile, access
from memserve.core.enums import Role

_Url = Annotated[str, typer.Option(help="Where the gateway serves.")]
_Wait = Annotated[bool, typer.Option(help="Return when it is done, and show how far it is until then.")]
_URL = "http://127.0.0.1:8000"


def instance(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Folder or name that vLLM takes; none: the cluster's own.")] = "",
    *,
    join: Annotated[str, typer.Option(help="URL of the gateway, or tcp://HOST:PORT of its cluster manager.")],
    role: Annotated[Role, typer.Option(help="What it is to do.")],
    name: Annotated[str, typer.Option(help="Unique in the cluster; none: made up.")] = "",
    host: Annotated[str, typer.Option(help="Address of this host on which it listens.")] = "127.0.0.1",
    dram: Annotated[str | None, typer.Option(help="Shared memory of its pool; none: as in the cluster.")] = None,
    cluster_secret: SecretFile = None,
    ca: CaFile = None,
) -> None:
    """Add an instance to a running cluster: memserve instance [MODEL] --role decode --join URL -- [ENGINE ARGUMENTS]"""
    with refusals():
        from memserve.cli.instance import run_instance  # noqa: PLC0415
        from memserve.serving.joined_instance import InstanceOptions  # noqa: PLC0415

        options = InstanceOptions(
            join=join,
            role=role,
            model=model,
            name=name,
            host=host,
            dram=dram,
            secret=str(cluster_secret.expanduser().resolve()) if cluster_secret else "",
            ca=str(ca.expanduser()) if ca else "",
            engine_args=context.obj or (),
        )
        raise typer.Exit(run_instance(options))


def scale(
    numbers: Annotated[list[str], typer.Argument(help="ROLE=NUMBER for each role that is to change.")],
    *,
    url: _Url = _URL,
    cluster_secret: SecretFile = None,
    ca: CaFile = None,
    wait: _Wait = True,
) -> None:
    """Start and drain instances until there are so many: memserve scale prefill=2 decode=1"""
    with refusals():
        from memserve.cli.operations import carry_out, parse_numbers  # noqa: PLC0415

        carry_out(url, "/admin/scale", parse_numbers(numbers), wait_for_end=wait, access=access(cluster_secret, ca))


def drain(
    instance: Annotated[str, typer.Argument(help="As `memserve status` shows it.")],
    *,
    url: _Url = _URL,
    cluster_secret: SecretFile = None,
    ca: CaFile = None,
    wait: _Wait = True,
) -> None:
    """Let an instance finish its requests, hand its cache on and go."""
    with refusals():
        from memserve.cli.operations import carry_out  # noqa: PLC0415

        carry_out(url, "/admin/drain", {"instance": instance}, wait_for_end=wait, access=access(cluster_secret, ca))


def role(
    instance: Annotated[str, typer.Argument(help="As `memserve status` shows it.")],
    role: Annotated[Role, typer.Argument(help="What it is to be.")],
    *,
    url: _Url = _URL,
    cluster_secret: SecretFile = None,
    ca: CaFile = None,
) -> None:
    """Change what an instance does from the next request on, without a restart and with its cache."""
    with refusals():
        from memserve.cli.operations import carry_out  # noqa: PLC0415

        carry_out(
            url,
            "/admin/role",
            {"instance": instance, "role": role},
            wait_for_end=True,
            access=access(cluster_secret, ca),
        )
