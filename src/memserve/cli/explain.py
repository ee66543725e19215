"""`memserve explain`: why a request went where it went, and what was predicted beside what came of it."""

import asyncio
from http import HTTPStatus
from urllib.parse import quote

import aiohttp
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memserve.core.errors import ConfigError, InstanceUnavailable
from memserve.gateway.explanation import Explanation, Step, seconds

_DEADLINE_S = 5.0


def show_explanation(request: str, url: str) -> None:
    """Print it. Raises ConfigError for a request that the gateway does not know, InstanceUnavailable without one."""
    found = asyncio.run(_read(request, url.rstrip("/")))
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


async def _read(request: str, url: str) -> Explanation:
    target = f"{url}/admin/explain/{quote(request, safe='')}"
    try:
        timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(target) as answer:
            body = await answer.read()
            if answer.status == HTTPStatus.NOT_FOUND:
                raise ConfigError(
                    f"the gateway at {url} remembers no request {request}: GET /admin/requests lists them"
                )
            if answer.status != HTTPStatus.OK:
                raise InstanceUnavailable(f"{target} answered {answer.status}; is this a memserve gateway?")
            return msgspec.json.decode(body, type=Explanation)
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        raise InstanceUnavailable(
            f"no memserve gateway answers at {url} ({error or type(error).__name__}); "
            "name the right one: memserve explain REQUEST --url URL"
        ) from error
