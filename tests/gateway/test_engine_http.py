"""The client towards the engines, against servers that say exactly this and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from memserve.gateway.engine_http import EngineAnswer, EngineConnections, EngineHttpError
from tests.fakes.waiting import Changes

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n5\r\n, you\r\n0\r\n\r\n"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhi, you"

Write = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Scripted:
    """A server: each connection gets the next answer at each of its requests."""

    def __init__(self, *answers: bytes | Write) -> None:
        self.requests: list[bytes] = []
        self.num_connections = 0
        self.num_closed = 0
        self.changes = Changes()
        self._answers = list(answers)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while head := await self._request(reader):
                self.requests.append(head)
                answer = self._answers.pop(0)
                if isinstance(answer, bytes):
                    writer.write(answer)
                else:
                    await answer(writer)
                if answer == UNTIL_CLOSED or not self._answers:
                    break
        except ConnectionError:
            pass
        finally:
            writer.close()
            self.num_closed += 1
            self.changes.happened()

    async def _request(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
        return head + await reader.readexactly(length)


@asynccontextmanager
async def speaking_with(server: Scripted) -> AsyncIterator[Callable[..., Coroutine[Any, Any, EngineAnswer]]]:
    listener = await asyncio.start_server(server, "127.0.0.1", 0)
    connections = EngineConnections()

    async def ask(*, method: str = "POST", body: bytes = b"{}") -> EngineAnswer:
        base = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/at/"
        return await connections.ask(
            base, method=method, target="/v1?x=1", headers=[(b"a", "é".encode("latin-1"))], body=body
        )

    async with listener:
        yield ask
        await connections.close()


async def body_of(answer: EngineAnswer) -> bytes:
    try:
        return b"".join([chunk async for chunk in answer.chunks()])
    finally:
        answer.leave()


async def test_a_request_is_written_as_it_was_given() -> None:
    server = Scripted(WHOLE, WHOLE)
    async with speaking_with(server) as ask:
        await body_of(await ask())
        await body_of(await ask(method="GET", body=b""))
    first, second = server.requests
    assert first.startswith(b"POST /at/v1?x=1 HTTP/1.1\r\nhost: 127.0.0.1:")
    assert first.endswith(b"\r\na: \xe9\r\ncontent-length: 2\r\n\r\n{}")
    assert second.startswith(b"GET /at/v1?x=1 HTTP/1.1\r\n")
    assert b"content-length" not in second


@pytest.mark.parametrize(
    ("said", "expected"),
    [(WHOLE, b"hi"), (CHUNKED, b"hi, you"), (UNTIL_CLOSED, b"hi, you"), (b"HTTP/1.1 204 No Content\r\n\r\n", b"")],
)
async def test_answers_of_every_form_are_read(said: bytes, expected: bytes) -> None:
    async with speaking_with(Scripted(b"HTTP/1.1 100 Continue\r\n\r\n" + said)) as ask:
        assert await body_of(await ask()) == expected


def test_it_works_on_the_event_loop_that_gateways_run_on() -> None:
    async def twice() -> list[bytes]:
        async with speaking_with(Scripted(CHUNKED, UNTIL_CLOSED)) as ask:
            return [await body_of(await ask()) for _ in range(2)]

    assert uvloop.run(twice()) == [b"hi, you"] * 2


async def test_an_answer_to_head_has_no_body_whatever_its_length() -> None:
    said = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    server = Scripted(said, WHOLE)
    async with speaking_with(server) as ask:
        answer = await ask(method="HEAD", body=b"")
        assert (answer.header(b"content-length"), await body_of(answer)) == ("5", b"")
        assert await body_of(await ask()) == b"hi"


async def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    server = Scripted(WHOLE, CHUNKED, WHOLE)
    async with speaking_with(server) as ask:
        assert [await body_of(await ask()) for _ in range(3)] == [b"hi", b"hi, you", b"hi"]
    assert server.num_connections == 1


async def test_a_connection_that_the_engine_closes_is_not_used_again() -> None:
    server = Scripted(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi", WHOLE)
    async with speaking_with(server) as ask:
        assert [await body_of(await ask()) for _ in range(2)] == [b"hi", b"hi"]
    assert server.num_connections == 2


async def test_leaving_before_the_end_closes_the_connection() -> None:
    async def never_ends(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")

    server = Scripted(never_ends, WHOLE)
    async with speaking_with(server) as ask:
        (await ask()).leave()
        await server.changes.until(lambda: server.num_closed == 1)
        assert await body_of(await ask()) == b"hi"


async def test_giving_up_before_the_head_has_come_closes_the_connection() -> None:
    async def silent(_: asyncio.StreamWriter) -> None:
        server.changes.happened()

    server = Scripted(silent, WHOLE)
    async with speaking_with(server) as ask:
        asked = asyncio.create_task(ask())
        await server.changes.until(lambda: len(server.requests) == 1)
        asked.cancel()
        await server.changes.until(lambda: server.num_closed == 1)


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"HTTP/1.1 200 OK\r\n", b"220 smtp ready\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000),
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_an_error(said: bytes) -> None:
    async with speaking_with(Scripted(said)) as ask:
        with pytest.raises(EngineHttpError):
            await ask()


@pytest.mark.parametrize("said", [WHOLE[:-1], CHUNKED[:-5], CHUNKED[:-5] + b"x\r\n"])
async def test_a_body_that_breaks_off_is_an_error(said: bytes) -> None:
    async with speaking_with(Scripted(said)) as ask:
        answer = await ask()
        with pytest.raises(EngineHttpError):
            await body_of(answer)


async def test_more_than_was_asked_for_spoils_the_connection() -> None:
    server = Scripted(WHOLE + WHOLE, WHOLE)
    async with speaking_with(server) as ask:
        await ask()
        assert await body_of(await ask()) == b"hi"
    assert server.num_connections == 2


async def test_nobody_listening_is_an_error() -> None:
    listener = await asyncio.start_server(Scripted(), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    for base in (f"http://127.0.0.1:{port}", "ftp://nowhere"):
        with pytest.raises(OSError, match=r"refused|URL|failed"):
            await EngineConnections().ask(base, method="GET", target="/", headers=(), body=b"")


async def test_an_answer_that_is_not_read_waits_in_its_socket() -> None:
    size = 64 << 20

    async def much(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
        server.changes.happened()
        await writer.drain()
        drained.set()

    drained = asyncio.Event()
    server = Scripted(much)
    async with speaking_with(server) as ask:
        answer = await ask()
        assert not drained.is_set()
        assert len(await body_of(answer)) == size
        assert drained.is_set()
