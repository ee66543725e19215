"""`memserve explain`: why a request went where it went, and what was predicted beside what came of it."""

import asyncio
from urllib.parse import quote

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memserve.cli.admin import ask
from memserve.gateway.explanation import Explanation, Step, seconds
from memserve.security.gateway_access import ANY_GATEWAY, GatewayAccess


def show_explanation(request: str, url: str, access: GatewayAccess = ANY_GATEWAY) -> None:
    """Print it. Raises ConfigError for a request that the gateway does not know, InstanceUnavailable without one."""
    found = asyncio.run(ask(url, f"/admin/explain/{quote(request, safe='')}", Explanation, access=access))
    console = Console(highlight=False, soft_wrap=True)
    for line in found.text:
        console.print(line, markup=False)
    if found.steps:
        console.print(render(found.steps))


def render(steps: tuple[Step, ...]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("until the first token")
    table.add_column("predicted", justify="right")
    table.add_column("actual", justify="right")
    for step in steps:
        table.add_row(step.what, _cell(step.predicted_s), _cell(step.actual_s))
    return table


def _cell(value: float | None) -> str:
    return "-" if value is None else seconds(value)
