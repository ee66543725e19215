"""The RPC channel over real sockets: typed errors, deadlines, bounds, and whatever a stranger sends."""

import asyncio
import struct
from collections.abc import AsyncIterator

import msgspec
import pytest
import zmq.asyncio

from memserve.core.errors import (
    ConfigError,
    DeadlineExceeded,
    InstanceUnavailable,
    InvalidBlocks,
    InvariantError,
    ProtocolError,
)
from memserve.core.ids import BlockId, RequestId, TransferId
from memserve.rpc.channel import RpcClient, RpcServer
from memserve.wire.codec import MAX_CONTROL_BYTES
from memserve.wire.messages import (
    AbortRequest,
    AckReply,
    AllocReply,
    ErrorReply,
    FreeRequest,
    PeerMessage,
    ReleaseRequest,
    StatsRequest,
)


class Desk:
    """A handler whose answers tests can hold back."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.num_waiting = 0
        self.peak = 0
        self._changed = asyncio.Condition()

    async def wait_until_handling(self, num_requests: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.num_waiting >= num_requests)

    async def handle(self, message: object, _sender: bytes) -> object:
        match message:
            case FreeRequest(blocks=blocks):
                raise InvalidBlocks(f"{len(blocks)} blocks are not yours")
            case AbortRequest():
                raise RuntimeError("a bug")
            case StatsRequest():
                self.num_waiting += 1
                self.peak = max(self.peak, self.num_waiting)
                async with self._changed:
                    self._changed.notify_all()
                await self.open.wait()
                self.num_waiting -= 1
                return AckReply()
            case ReleaseRequest(request=request):
                return AllocReply(blocks=(BlockId(int(request)),))
        return AckReply()


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.fixture
async def server(desk: Desk) -> AsyncIterator[RpcServer[object]]:
    made: RpcServer[object] = RpcServer("127.0.0.1", desk.handle, PeerMessage, max_in_flight=8)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def client(server: RpcServer[object]) -> AsyncIterator[RpcClient[object]]:
    made: RpcClient[object] = RpcClient(server.endpoint, PeerMessage)
    yield made
    await made.close()


@pytest.fixture
async def stranger(server: RpcServer[object]) -> AsyncIterator[zmq.asyncio.Socket]:
    """Somebody who can connect and sends what it likes."""
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(server.endpoint)
    yield socket
    socket.close(linger=0)
    context.term()


async def test_many_calls_at_once_each_get_their_own_reply(client: RpcClient[object]) -> None:
    calls = [client.call(ReleaseRequest(request=RequestId(str(n))), deadline_s=10) for n in range(200)]
    assert await asyncio.gather(*calls) == [AllocReply(blocks=(BlockId(n),)) for n in range(200)]


async def test_a_typed_error_of_the_handler_is_raised_at_the_client(client: RpcClient[object]) -> None:
    with pytest.raises(InvalidBlocks, match="2 blocks are not yours"):
        await client.call(FreeRequest(blocks=(BlockId(1), BlockId(2))), deadline_s=5)


async def test_a_bug_in_the_handler_is_logged_and_an_invariant_error_at_the_client(
    client: RpcClient[object], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvariantError, match="RuntimeError: a bug"):
        await client.call(AbortRequest(transfer=TransferId("x")), deadline_s=5)
    assert "AbortRequest" in caplog.text


async def test_a_call_without_an_answer_in_time_fails_and_the_next_one_works(
    client: RpcClient[object], desk: Desk
) -> None:
    with pytest.raises(DeadlineExceeded, match=r"StatsRequest .* within 0.05 s"):
        await client.call(StatsRequest(), deadline_s=0.05)
    desk.open.set()
    assert await client.call(StatsRequest(), deadline_s=5) == AckReply()


async def test_a_server_that_is_not_there_is_a_missed_deadline() -> None:
    client: RpcClient[object] = RpcClient("tcp://127.0.0.1:9", PeerMessage)
    with pytest.raises(DeadlineExceeded):
        await client.call(StatsRequest(), deadline_s=0.05)
    await client.close()


async def test_an_endpoint_that_is_none_is_said_at_once() -> None:
    client: RpcClient[object] = RpcClient("127.0.0.1:80", PeerMessage)
    with pytest.raises(InstanceUnavailable, match="tcp://HOST:PORT"):
        await client.call(StatsRequest(), deadline_s=5)
    await client.close()


async def test_closing_a_client_fails_what_waits(client: RpcClient[object], desk: Desk) -> None:
    call = asyncio.create_task(client.call(StatsRequest(), deadline_s=30))
    await desk.wait_until_handling(1)
    await client.close()
    with pytest.raises(InstanceUnavailable, match="closed"):
        await call


async def test_no_more_than_the_allowed_number_of_requests_is_handled_at_once(
    client: RpcClient[object], desk: Desk
) -> None:
    calls = [asyncio.create_task(client.call(StatsRequest(), deadline_s=10)) for _ in range(40)]
    await desk.wait_until_handling(8)
    desk.open.set()
    await asyncio.gather(*calls)
    assert desk.peak == 8


async def test_a_taken_port_is_a_config_error(server: RpcServer[object], desk: Desk) -> None:
    port = int(server.endpoint.rsplit(":", 1)[1])
    second: RpcServer[object] = RpcServer("127.0.0.1", desk.handle, PeerMessage, port=port)
    with pytest.raises(ConfigError, match=str(port)):
        await second.start()


async def test_a_cancelled_call_leaves_the_client_usable(client: RpcClient[object], desk: Desk) -> None:
    call = asyncio.create_task(client.call(StatsRequest(), deadline_s=30))
    await desk.wait_until_handling(1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert await client.call(ReleaseRequest(request=RequestId("7")), deadline_s=5) == AllocReply(blocks=(BlockId(7),))


WHOLE = msgspec.msgpack.encode(ReleaseRequest(request=RequestId("1")))
HUGE_CLAIM = b"\x82\xa4type\xabFreeRequest\xa6blocks\xdd\xff\xff\xff\xff\x01"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x00" * 100,
        WHOLE[:-1],
        WHOLE + b"\x00",
        HUGE_CLAIM,
        b"\x91" * 100_000,
        msgspec.msgpack.encode({"type": "NoSuchRequest"}),
        msgspec.msgpack.encode({"type": "FreeRequest", "blocks": "text"}),
        msgspec.msgpack.encode({"type": "ReleaseRequest", "request": "1", "extra": 1}),
    ],
)
async def test_what_cannot_be_read_is_answered_and_counted_and_the_server_goes_on(
    server: RpcServer[object], client: RpcClient[object], stranger: zmq.asyncio.Socket, payload: bytes
) -> None:
    await stranger.send_multipart([b"12345678", payload])
    call, reply = await asyncio.wait_for(stranger.recv_multipart(), 5)
    decoded = msgspec.msgpack.decode(reply, type=ErrorReply)
    assert (call, decoded.kind) == (b"12345678", ProtocolError.__name__)
    assert server.stats().num_malformed == 1
    assert await client.call(ReleaseRequest(request=RequestId("3")), deadline_s=5) == AllocReply(blocks=(BlockId(3),))


@pytest.mark.parametrize("frames", [[b"alone"], [b"short", b"x"], [b"12345678", b"x", b"y"], [b"12345678", b"", b""]])
async def test_frames_in_a_wrong_number_are_dropped(
    server: RpcServer[object], client: RpcClient[object], stranger: zmq.asyncio.Socket, frames: list[bytes]
) -> None:
    await stranger.send_multipart(frames)
    await stranger.send_multipart([b"12345678", WHOLE])
    assert (await asyncio.wait_for(stranger.recv_multipart(), 5))[0] == b"12345678"
    assert server.stats().num_malformed == 1


async def test_raw_bytes_on_the_port_do_no_harm(server: RpcServer[object], client: RpcClient[object]) -> None:
    host, port = server.endpoint.removeprefix("tcp://").split(":")
    for raw in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" + struct.pack(">Q", 2**62) + b"\x7f", b"\x00" * 4096):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert await client.call(ReleaseRequest(request=RequestId("5")), deadline_s=5) == AllocReply(blocks=(BlockId(5),))


async def test_a_message_beyond_the_limit_is_refused_before_it_is_sent(client: RpcClient[object]) -> None:
    with pytest.raises(ProtocolError, match="exceeds the limit"):
        await client.call(ReleaseRequest(request=RequestId("x" * (MAX_CONTROL_BYTES + 1))), deadline_s=5)


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "__builtins__", ""])
async def test_an_error_of_an_unknown_kind_is_a_protocol_error(kind: str) -> None:
    async def answer(_message: object, _sender: bytes) -> object:
        return ErrorReply(kind=kind, text="boo")

    server: RpcServer[object] = RpcServer("127.0.0.1", answer, PeerMessage)
    await server.start()
    client: RpcClient[object] = RpcClient(server.endpoint, PeerMessage)
    with pytest.raises(ProtocolError, match="boo"):
        await client.call(StatsRequest(), deadline_s=5)
    await client.close()
    await server.close()
