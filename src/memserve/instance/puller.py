"""Cached prefixes that one pool asks of another: both halves, the asker's and the holder's.

    asker                                        holder
    PullRequest (tokens, how many it has) ──────> match under a lease
    fill, verify, index in one step <──────────── TransferRequest of what is lacking
    done: its own index names them  <──────────── PullReply

The asker's half never waits and changes nothing by itself. The holder's half sends on its own threads; at most
MAX_WAITING pulls are taken at a time, and one whose asker waits no more is not begun. Whatever goes wrong is
an error at the asker, which computes instead.
"""

import asyncio
import functools
import itertools
from concurrent.futures import Future, ThreadPoolExecutor

from memserve.core.enums import Tier
from memserve.core.errors import DeadlineExceeded, InvalidTokens, PoolExhausted, ProtocolError
from memserve.core.ids import Incarnation, InstanceId, TransferId
from memserve.instance.addresses import Addresses
from memserve.instance.agent import Agent
from memserve.instance.core import PoolCore
from memserve.instance.locked_ledger import LockedLedger
from memserve.instance.peer_links import PeerLinks
from memserve.instance.sender import Pulled, TransferSender
from memserve.instance.tier_mover import TierMover
from memserve.transfer.limits import check_names, num_tokens
from memserve.wire.identity import Namespace
from memserve.wire.messages import PeerInfo, PullReply, PullRequest

PULL_DEADLINE_S = 10.0
MAX_PULL_DEADLINE_S = 60.0
MAX_WAITING = 64
_NUM_THREADS = 2
_OWNER = "pull"
_TOKEN_BYTES = 4


class Puller:
    """Pulls of one pool, in both directions."""

    def __init__(
        self,
        *,
        agent: Agent,
        links: PeerLinks,
        core: PoolCore,
        sender: TransferSender,
        addresses: Addresses,
        tiers: TierMover,
    ) -> None:
        self._agent = agent
        self._addresses = addresses
        self._links = links
        self._ledger = LockedLedger(core.ledger, core.lock)
        self._sender = sender
        self._tiers = tiers
        self._block_size = core.ledger.block_size
        self._clock = core.clock
        self._numbers = itertools.count(1)
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="memserve-pull")
        self._answering: dict[TransferId, asyncio.Task[PullReply]] = {}

    def pull(self, peer: PeerInfo, tokens: bytes, *, namespace: Namespace, deadline_s: float) -> "Future[int]":
        """Tokens that came, all of them indexed here by then. Fails with what the peer raises, DeadlineExceeded."""
        held = self._ledger.match(tokens, owner=_OWNER, namespace=namespace)
        if held.lease is not None:
            self._ledger.release(held.lease)
        own = self._addresses.name(())
        request = PullRequest(
            transfer=TransferId(f"{_names_of(own.instance, own.incarnation)}{next(self._numbers)}"),
            tokens=tokens,
            namespace=namespace,
            num_held_tokens=held.num_tokens,
            deadline_s=deadline_s,
        )
        return self._agent.submit(self._ask(peer, request))

    async def answer(self, request: PullRequest, asker: PeerInfo) -> PullReply:
        """Send what is asked for, then say how much it was; a repeat joins. Raises what the asker is to see."""
        check_names(request.transfer, request.namespace)
        num_tokens(request.tokens)
        if request.num_held_tokens < 0 or request.num_held_tokens % self._block_size:
            raise InvalidTokens(f"{request.num_held_tokens} tokens held are not whole blocks of {self._block_size}")
        if not 0 < request.deadline_s <= MAX_PULL_DEADLINE_S:
            raise ProtocolError(
                f"deadline_s = {request.deadline_s}: expected more than 0, at most {MAX_PULL_DEADLINE_S:g}"
            )
        if not request.transfer.startswith(_names_of(asker.instance, asker.incarnation)):
            raise ProtocolError(f"{asker.instance}/{asker.incarnation} cannot name a pull {request.transfer}")
        task = self._answering.get(request.transfer)
        if task is None:
            task = asyncio.create_task(self._begin(request, asker))
            self._answering[request.transfer] = task
            task.add_done_callback(lambda _: self._answering.pop(request.transfer, None))
        return await asyncio.shield(task)

    def close(self) -> None:
        """After the agent: what is under way has failed by then. Idempotent."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _ask(self, peer: PeerInfo, request: PullRequest) -> int:
        reply = await self._links.call(peer, request, PullReply, deadline_s=request.deadline_s)
        return reply.num_tokens

    async def _begin(self, request: PullRequest, asker: PeerInfo) -> PullReply:
        if len(self._answering) > MAX_WAITING:
            raise PoolExhausted(f"{MAX_WAITING} pulls are under way here, the most allowed: compute instead")
        send = functools.partial(self._send, request, asker, self._clock.now() + request.deadline_s)
        return await asyncio.get_running_loop().run_in_executor(self._threads, send)

    def _send(self, request: PullRequest, asker: PeerInfo, until: float) -> PullReply:
        left_s = until - self._clock.now()
        if left_s <= 0:
            raise DeadlineExceeded(f"pull {request.transfer} waited {request.deadline_s:g} s for its turn: not begun")
        self._tiers.promote(request.tokens, namespace=request.namespace, deadline_s=left_s).result()
        match = self._ledger.match(request.tokens, owner=_OWNER, namespace=request.namespace)
        if match.lease is None:
            return PullReply(num_tokens=0)
        try:
            blocks = match.blocks[request.num_held_tokens // self._block_size :]
            if blocks:
                self._sender.send(
                    asker,
                    self._addresses.name(blocks),
                    tier=Tier.DRAM,
                    tokens=request.tokens[: match.num_tokens * _TOKEN_BYTES],
                    namespace=request.namespace,
                    pulled=Pulled(
                        transfer=request.transfer,
                        num_held_blocks=request.num_held_tokens // self._block_size,
                        deadline_s=left_s,
                    ),
                )
        finally:
            self._ledger.release(match.lease)
        return PullReply(num_tokens=len(blocks) * self._block_size)

    def __repr__(self) -> str:
        return f"Puller({len(self._answering)} under way for others)"


def _names_of(instance: InstanceId, incarnation: Incarnation) -> str:
    """What the names of this asker's pulls begin with."""
    return f"pull/{instance}/{incarnation}/"
