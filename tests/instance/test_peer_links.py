"""Calls to peers: who is gone costs one handshake, however many wait for it."""

import asyncio

import pytest

from memserve.core.errors import DeadlineExceeded
from memserve.core.ids import TransferId
from memserve.instance import peer_links
from memserve.instance.mempool import MemPool
from memserve.instance.peer_links import PeerLinks
from memserve.rpc.channel import RpcServer
from memserve.wire.messages import AbortRequest, AckReply, HelloRequest, PeerInfo, PeerMessage


async def test_many_calls_to_a_peer_that_does_not_answer_wait_for_one_handshake(
    a: MemPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_links, "HELLO_DEADLINE_S", 0.3)
    asked: list[object] = []

    async def never(message: object, _sender: bytes) -> object:
        asked.append(message)
        await asyncio.Event().wait()
        return None

    server: RpcServer[object] = RpcServer("127.0.0.1", never, PeerMessage)
    await server.start()
    gone = PeerInfo(
        instance=a.info.instance,
        incarnation=a.info.incarnation,
        endpoint=server.endpoint,
        identity=a.info.identity,
    )
    links = PeerLinks(lambda: a.info)
    calls = [links.call(gone, AbortRequest(transfer=TransferId(str(n))), AckReply, deadline_s=0.3) for n in range(20)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(error, DeadlineExceeded) for error in ended)
    assert [type(message) for message in asked] == [HelloRequest]
    await links.close()
    await server.close()
