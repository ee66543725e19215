"""`memserve scale`, `drain` and `role`: what is typed. What they import is imported when they are called."""

from typing import Annotated

import typer

from memserve.cli.refusals import refusals
from memserve.core.enums import Role

_Url = Annotated[str, typer.Option(help="Where the gateway serves.")]
_Wait = Annotated[bool, typer.Option(help="Return when it is done, and show how far it is until then.")]
_URL = "http://127.0.0.1:8000"


def scale(
    numbers: Annotated[list[str], typer.Argument(help="ROLE=NUMBER for each role that is to change.")],
    *,
    url: _Url = _URL,
    wait: _Wait = True,
) -> None:
    """Start and drain instances until there are so many: memserve scale prefill=2 decode=1"""
    with refusals():
        from memserve.cli.operations import carry_out, parse_numbers  # noqa: PLC0415

        carry_out(url, "/admin/scale", parse_numbers(numbers), wait_for_end=wait)


def drain(
    instance: Annotated[str, typer.Argument(help="As `memserve status` shows it.")],
    *,
    url: _Url = _URL,
    wait: _Wait = True,
) -> None:
    """Let an instance finish its requests, hand its cache on and go."""
    with refusals():
        from memserve.cli.operations import carry_out  # noqa: PLC0415

        carry_out(url, "/admin/drain", {"instance": instance}, wait_for_end=wait)


def role(
    instance: Annotated[str, typer.Argument(help="As `memserve status` shows it.")],
    role: Annotated[Role, typer.Argument(help="What it is to be.")],
    *,
    url: _Url = _URL,
) -> None:
    """Change what an instance does from the next request on, without a restart and with its cache."""
    with refusals():
        from memserve.cli.operations import carry_out  # noqa: PLC0415

        carry_out(url, "/admin/role", {"instance": instance, "role": role}, wait_for_end=True)
