"""One client's side of an exchange, over a scripted server: bodies, hang-ups, endings."""

import asyncio

import pytest
from starlette.types import Message

from memserve.gateway.client_connection import ClientConnection
from memserve.gateway.ending import scope
from memserve.gateway.errors import ApiError, ClientGone, bad_request

SCOPE = {"type": "http", "headers": []}


class Server:
    """An ASGI server's two ends: says "disconnect" once the answer is complete, as uvicorn does."""

    def __init__(self, *messages: Message) -> None:
        self.sent: list[Message] = []
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        for message in messages:
            self._messages.put_nowait(message)

    async def receive(self) -> Message:
        return await self._messages.get()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.hang_up()

    def hang_up(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    def client(self) -> ClientConnection:
        return ClientConnection(SCOPE, self.receive, self.send)


def part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_body_in_parts_is_read_whole() -> None:
    client = Server(part(b"a", more=True), part(b"", more=True), part(b"b", more=False)).client()
    assert await client.read_body() == b"ab"


async def test_a_client_that_leaves_inside_its_body_is_gone() -> None:
    client = Server(part(b"a", more=True), {"type": "http.disconnect"}).client()
    with pytest.raises(ClientGone):
        await client.read_body()


async def test_a_hang_up_ends_the_work() -> None:
    server = Server()

    async def work() -> None:
        client = server.client()
        async with scope() as handle, client.ends(handle):
            server.hang_up()
            await asyncio.Event().wait()

    with pytest.raises(ClientGone):
        await work()


async def test_a_disconnect_after_the_complete_answer_ends_nothing() -> None:
    client = Server().client()
    async with scope() as work, client.ends(work):
        await client.send_whole(status=200, body=b"{}", headers=[])
        await settle()
    assert client.status == 200


async def test_an_error_before_the_answer_is_an_answer_and_inside_a_stream_an_event() -> None:
    error = bad_request("wrong")
    before, inside = Server(), Server()
    await before.client().fail(error)
    assert [m.get("status") for m in before.sent] == [400, None]
    client = inside.client()
    await client.start(status=200, headers=[])
    await client.fail(error)
    assert inside.sent[-1]["body"] == b"data: " + error.body() + b"\n\ndata: [DONE]\n\n"


async def test_an_error_after_the_complete_answer_is_not_told() -> None:
    server = Server()
    client = server.client()
    await client.send_whole(status=200, body=b"{}", headers=[])
    await client.fail(bad_request("late"))
    assert [m.get("status") for m in server.sent] == [200, None]
    assert server.sent[-1]["body"] == b"{}"


async def test_an_answer_is_flushed_when_the_server_had_a_moment_to_write_it() -> None:
    written: list[bytes] = []

    async def send(message: Message) -> None:
        # As uvloop does it: at the next pause of the task.
        asyncio.get_running_loop().call_soon(written.append, message.get("body", b""))

    client = ClientConnection(SCOPE, Server().receive, send)
    await client.send_whole(status=200, body=b"{}", headers=[])
    assert not written
    await client.flushed()
    assert written == [b"", b"{}"]


def test_an_error_without_a_word_of_its_own_is_named_by_its_status() -> None:
    assert b'"type":"Method Not Allowed"' in ApiError("no", status=405).body()
