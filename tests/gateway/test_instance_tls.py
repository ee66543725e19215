"""The way from the gateway to an instance of a cluster with a secret: what somebody on it records, who is refused."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from memserve.gateway.errors import InstanceLost
from memserve.gateway.upstream import Upstream
from memserve.security.issued import issued_file
from memserve.security.secret import ClusterSecret
from tests.gateway.instance_server import instance_server, view_of

SECRET, ANOTHER = ClusterSecret(b"s" * 32), ClusterSecret(b"a" * 32)
PROMPT, TOKEN, ANSWER = b"a prompt that nobody may read", "Bearer of-the-client", b"an answer that nobody may read"


class Wire:
    """Passes on what goes between a client and a server, and records all of it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.recorded = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass(reader, there_writer))
            group.create_task(self._pass(there_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(1 << 16):
            self.recorded += some
            writer.write(some)
        writer.close()


async def answer(request: Request) -> Response:
    assert (await request.body(), request.headers["authorization"]) == (PROMPT, TOKEN)
    return Response(ANSWER)


APP = Starlette(routes=[Route("/v1/completions", answer, methods=["POST"])])


@asynccontextmanager
async def instance() -> AsyncIterator[int]:
    """Of a cluster with that secret; gives its port."""
    async with instance_server(APP, SECRET) as port:
        yield port


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[tuple[Wire, int]]:
    tap = Wire(port)
    server = await asyncio.start_server(tap, "127.0.0.1", 0)
    async with server:
        yield tap, server.sockets[0].getsockname()[1]


async def ask(url: str, secret: ClusterSecret | None) -> bytes:
    """As the gateway asks."""
    upstream = Upstream(secret)
    headers = [(b"authorization", TOKEN.encode())]
    try:
        async with upstream.exchange(
            view_of(url), method="POST", target="/v1/completions", headers=headers, body=PROMPT
        ) as got:
            return await got.read()
    finally:
        await upstream.close()


async def test_a_recording_of_the_connection_shows_neither_prompt_nor_token_nor_answer() -> None:
    async with instance() as port, wire(port) as (tap, between):
        assert await ask(f"https://127.0.0.1:{between}", SECRET) == ANSWER
    assert len(tap.recorded) > 500
    for hidden in (PROMPT, TOKEN.encode(), ANSWER, b"HTTP/1.1", b"/v1/completions"):
        assert hidden not in tap.recorded


@pytest.mark.parametrize(("scheme", "secret"), [("https", ANOTHER), ("https", None), ("http", SECRET)])
async def test_who_does_not_know_the_secret_is_refused_and_so_is_an_instance_that_does_not(
    scheme: str, secret: ClusterSecret | None
) -> None:
    async with instance() as port:
        with pytest.raises(InstanceLost):
            await ask(f"{scheme}://127.0.0.1:{port}", secret)
        assert await ask(f"https://127.0.0.1:{port}", SECRET) == ANSWER


async def test_random_bytes_and_broken_handshakes_do_not_end_the_server() -> None:
    async with instance() as port:
        for noise in (os.urandom(1 << 14), b"\x16\x03\x01" + os.urandom(200), b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(noise)
            writer.write_eof()
            async with asyncio.timeout(10):
                while await reader.read(1 << 16):
                    pass
            writer.close()
        assert await ask(f"https://127.0.0.1:{port}", SECRET) == ANSWER


async def test_a_certificate_of_another_cluster_is_refused_even_by_who_asks_for_none() -> None:
    """The instance checks its clients, too: what a client believes does not matter."""
    with issued_file(ANOTHER) as fd:
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
        stranger.load_cert_chain(f"/proc/self/fd/{fd}")
    async with instance() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=stranger)
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        got = b""
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            got = await reader.read()
        assert got == b""
        writer.close()
