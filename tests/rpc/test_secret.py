"""Control connections under a cluster secret: who is heard, what a stranger achieves, what the joiner is told."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import psutil
import pytest

from memserve.core.errors import SecretRefused
from memserve.rpc.channel import RpcClient, RpcServer
from memserve.security.secret import ClusterSecret
from memserve.wire.messages import ClusterMessage, MemberReply, MemberRequest

OURS, THEIRS = ClusterSecret(b"ours" * 10), ClusterSecret(b"theirs" * 10)
MakeServer = Callable[[ClusterSecret | None], Awaitable[RpcServer[ClusterMessage]]]


async def _answer(message: ClusterMessage, _sender: bytes) -> ClusterMessage:
    return MemberReply(
        state=message.instance if isinstance(message, MemberRequest) else "", dismissed=False, refusal=""
    )


@pytest.fixture
async def make_server() -> AsyncIterator[MakeServer]:
    servers: list[RpcServer[ClusterMessage]] = []

    async def make(secret: ClusterSecret | None) -> RpcServer[ClusterMessage]:
        server: RpcServer[ClusterMessage] = RpcServer("127.0.0.1", _answer, ClusterMessage, secret=secret)
        servers.append(server)
        await server.start()
        return server

    yield make
    for server in servers:
        await server.close()


async def asked(endpoint: str, secret: ClusterSecret | None, *, deadline_s: float = 20.0) -> str:
    client: RpcClient[ClusterMessage] = RpcClient(endpoint, ClusterMessage, secret=secret)
    try:
        reply = await client.call(MemberRequest(instance="me"), deadline_s=deadline_s)
    finally:
        await client.close()
    assert isinstance(reply, MemberReply)
    return reply.state


def address(server: RpcServer[ClusterMessage]) -> tuple[str, int]:
    host, _, port = server.endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


async def test_who_knows_the_secret_is_answered(make_server: MakeServer) -> None:
    assert await asked((await make_server(OURS)).endpoint, OURS) == "me"


@pytest.mark.parametrize(
    ("server_has", "client_has", "told"),
    [
        (OURS, THEIRS, "does not take the cluster secret"),
        (OURS, None, "talks only to who knows"),
        (None, OURS, "does not take the cluster secret"),
    ],
    ids=["another", "none", "server has none"],
)
async def test_who_does_not_share_the_secret_is_told_so_and_not_heard(
    make_server: MakeServer, server_has: ClusterSecret | None, client_has: ClusterSecret | None, told: str
) -> None:
    server = await make_server(server_has)
    with pytest.raises(SecretRefused, match=told):
        await asked(server.endpoint, client_has)
    assert server.stats().num_requests == 0
    assert await asked(server.endpoint, server_has) == "me"


async def test_a_refused_client_is_heard_once_it_meets_a_server_of_its_own(make_server: MakeServer) -> None:
    stranger = await make_server(THEIRS)
    host, port = address(stranger)
    client: RpcClient[ClusterMessage] = RpcClient(stranger.endpoint, ClusterMessage, secret=OURS)
    with pytest.raises(SecretRefused):
        await client.call(MemberRequest(instance="me"), deadline_s=20.0)
    await stranger.close()
    server: RpcServer[ClusterMessage] = RpcServer(host, _answer, ClusterMessage, port=port, secret=OURS)
    await server.start()
    reply = await client.call(MemberRequest(instance="me"), deadline_s=20.0)
    assert isinstance(reply, MemberReply)
    await client.close()
    await server.close()


async def test_a_recorded_connection_sent_again_is_not_heard_and_cannot_be_read(make_server: MakeServer) -> None:
    server = await make_server(OURS)
    recorded: list[bytes] = []

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, into: list[bytes]) -> None:
        while data := await source.read(1 << 16):
            into.append(data)
            target.write(data)
        target.close()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*address(server))
        await asyncio.gather(pump(reader, far_writer, recorded), pump(far_reader, writer, []))

    proxy = await asyncio.start_server(between, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    assert await asked(f"tcp://127.0.0.1:{port}", OURS) == "me"
    proxy.close()
    await proxy.wait_closed()
    assert server.stats().num_requests == 1
    assert recorded
    assert b"instance" not in b"".join(recorded)

    reader, writer = await asyncio.open_connection(*address(server))
    for data in recorded:
        writer.write(data)
    async with asyncio.timeout(20.0):
        await reader.read()  # the server hangs up
    writer.close()
    assert await asked(server.endpoint, OURS) == "me"
    assert server.stats().num_requests == 2


async def test_random_bytes_are_not_heard_cost_no_memory_and_hold_up_nobody(make_server: MakeServer) -> None:
    server = await make_server(OURS)
    before = psutil.Process().memory_info().rss
    client: RpcClient[ClusterMessage] = RpcClient(server.endpoint, ClusterMessage, secret=OURS)
    await client.call(MemberRequest(instance="me"), deadline_s=20.0)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE".ljust(22, b"\0") + bytes(33)
    for number in range(100):
        _, writer = await asyncio.open_connection(*address(server))
        start = greeting[: number % 65] if number % 2 else b""
        writer.write(start + os.urandom(1 << 16))
        await client.call(MemberRequest(instance="me"), deadline_s=20.0)
        writer.close()
    await client.close()
    stats = server.stats()
    assert (stats.num_requests, stats.num_malformed) == (101, 0)
    assert psutil.Process().memory_info().rss - before < 64 << 20
