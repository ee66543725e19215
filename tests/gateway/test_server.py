"""The HTTP server around an app: it starts or says why not, and lets what is in progress finish."""

import asyncio
import socket

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from memserve.core.errors import ConfigError
from memserve.gateway.server import running


async def test_a_port_that_is_taken_is_a_configuration_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            async with running(Starlette(), port=port):
                pass


async def test_a_request_in_progress_finishes_when_the_server_stops() -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        arrived.set()
        await go_on.wait()
        return Response("done")

    async def ask(url: str) -> str:
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            return await response.text()

    async def refused(port: int) -> None:
        """Until the server takes no more connections."""
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                return
            writer.close()
            await writer.wait_closed()

    async def go_on_once_stopping(port: int) -> None:
        await refused(port)
        go_on.set()

    app = Starlette(routes=[Route("/", slow)])
    async with asyncio.timeout(10), asyncio.TaskGroup() as group, running(app) as port:
        asked = group.create_task(ask(f"http://127.0.0.1:{port}/"))
        await arrived.wait()
        group.create_task(go_on_once_stopping(port))
    assert asked.result() == "done"
