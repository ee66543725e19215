"""What a peer was given up on is told to it until it has heard it, also when it comes back from the dead."""

import asyncio

import pytest

from memserve.core.clock import ManualClock
from memserve.core.errors import DeadlineExceeded, NotIntroduced
from memserve.core.ids import TransferId
from memserve.instance import aborts, peer_links
from memserve.instance.aborts import Aborts
from memserve.instance.mempool import MemPool
from memserve.instance.peer_links import PeerLinks
from memserve.rpc.channel import RpcServer
from memserve.wire.messages import AbortRequest, AckReply, HelloReply, HelloRequest, PeerInfo, PeerMessage


class Peer:
    """An instance that can stand still, and can forget who introduced themselves."""

    def __init__(self, like: MemPool) -> None:
        self._like = like
        self.moves = asyncio.Event()
        self.moves.set()
        self.forgets = False
        self.aborted: list[str] = []
        self.num_hellos = 0
        self.server: RpcServer[object] = RpcServer("127.0.0.1", self.answer, PeerMessage)

    async def answer(self, message: object, _sender: bytes) -> object:
        await self.moves.wait()
        if isinstance(message, HelloRequest):
            self.num_hellos += 1
            self.forgets = False
            return HelloReply(peer=self.info)
        if self.forgets:
            raise NotIntroduced("say hello")
        assert isinstance(message, AbortRequest)
        self.aborted.append(message.transfer)
        return AckReply()

    @property
    def info(self) -> PeerInfo:
        own = self._like.info
        return PeerInfo(
            instance=own.instance, incarnation=own.incarnation, endpoint=self.server.endpoint, identity=own.identity
        )


async def test_an_abort_that_a_peer_could_not_hear_is_told_again_until_it_does(
    a: MemPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aborts, "CONTROL_DEADLINE_S", 0.1)
    monkeypatch.setattr(peer_links, "HELLO_DEADLINE_S", 0.1)
    peer, clock, links = Peer(a), ManualClock(), PeerLinks(lambda: a.info)
    await peer.server.start()
    told = Aborts(links, clock=clock)
    peer.moves.clear()
    for name in ("one", "two"):
        with pytest.raises(DeadlineExceeded):
            await told.send(peer.info, TransferId(name))
    clock.advance(2.0)
    await told.tick()
    assert len(told) == 2
    peer.moves.set()
    clock.advance(2.0)
    await told.tick()
    assert len(told) == 0
    assert {"one", "two"} <= set(peer.aborted)
    await links.close()
    await peer.server.close()


async def test_a_peer_that_took_this_one_for_dead_is_introduced_anew_and_asked_again(a: MemPool) -> None:
    peer, links = Peer(a), PeerLinks(lambda: a.info)
    await peer.server.start()
    for name in ("before", "after"):
        await links.call(peer.info, AbortRequest(transfer=TransferId(name)), AckReply, deadline_s=5.0)
        peer.forgets = True
    assert peer.aborted == ["before", "after"]
    assert peer.num_hellos == 2
    await links.close()
    await peer.server.close()
