"""An instance that goes hands its cache on: both halves, the one's that goes and the heir's.

    who goes                                     heir
    OfferRequest (tokens) ───────────────────────> pulls what it lacks of them (puller.py)
    the next prompt, the latest used first <────── OfferReply

Owns the progress of one handing-on. Prompts that begin alike go to the same heir, as long as it has room. What
nobody takes, or does not arrive, is lost as any evicted block: it is computed again when it is asked for.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator

import xxhash

from memserve.core.errors import InstanceUnavailable, MemserveError
from memserve.instance.core import PoolCore
from memserve.instance.peer_links import PeerLinks
from memserve.instance.puller import PULL_DEADLINE_S, Puller
from memserve.transfer.limits import check_names, num_tokens
from memserve.wire.identity import Namespace
from memserve.wire.messages import HandOnReply, HandOnRequest, Heir, OfferReply, OfferRequest, PeerInfo

_AT_ONCE = 4
_ANSWER_S = PULL_DEADLINE_S + 2.0
_TOKEN_BYTES = 4
_log = logging.getLogger(__name__)


class _Room:
    """What is left of an heir's room."""

    def __init__(self, heir: Heir) -> None:
        self.peer = heir.peer
        self.num_tokens = heir.max_tokens


class HandOn:
    """Of one pool; lives in the agent's event loop."""

    def __init__(
        self,
        *,
        core: PoolCore,
        links: PeerLinks,
        puller: Callable[[], Puller],
        local: Callable[[], PeerInfo],
    ) -> None:
        self._core = core
        self._links = links
        self._puller = puller
        self._local = local
        self._task: asyncio.Task[None] | None = None
        self._num_prompts = self._num_done = self._num_tokens = self._num_failed = 0

    async def hand_on(self, message: HandOnRequest) -> HandOnReply:
        """Begin, or tell how far it is. Raises InstanceUnavailable for another incarnation."""
        local = self._local()
        if (message.instance, message.incarnation) != (local.instance, local.incarnation):
            raise InstanceUnavailable(
                f"{message.instance}/{message.incarnation} is gone: this is {local.instance}/{local.incarnation}"
            )
        if self._task is None:
            with self._core.lock:
                snapshot = self._core.ledger.snapshot()
            prompts = list(snapshot.prompts_by_use())
            self._num_prompts = len(prompts)
            self._task = asyncio.create_task(self._offer_all(prompts, [_Room(heir) for heir in message.heirs]))
        return HandOnReply(
            is_done=self._task.done(),
            num_prompts=self._num_prompts,
            num_prompts_done=self._num_done,
            num_tokens=self._num_tokens,
            num_failed=self._num_failed,
        )

    async def take(self, message: OfferRequest, peer: PeerInfo) -> OfferReply:
        """The heir's half. Raises what makes the pull fail."""
        check_names(message.namespace)
        num_tokens(message.tokens)
        came = self._puller().pull(peer, message.tokens, namespace=message.namespace, deadline_s=PULL_DEADLINE_S)
        return OfferReply(num_tokens=await asyncio.wrap_future(came))

    async def _offer_all(self, prompts: list[tuple[Namespace, bytes]], rooms: list[_Room]) -> None:
        waiting = iter(prompts)
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._offer_next(waiting, rooms))

    async def _offer_next(self, waiting: Iterator[tuple[Namespace, bytes]], rooms: list[_Room]) -> None:
        for namespace, tokens in waiting:
            if not await self._offer(namespace, tokens, rooms):
                self._num_failed += 1
            self._num_done += 1

    async def _offer(self, namespace: Namespace, tokens: bytes, rooms: list[_Room]) -> bool:
        """To one heir after the other until one takes it."""
        size = len(tokens) // _TOKEN_BYTES
        for room in self._in_turn(namespace, tokens, rooms):
            if room.num_tokens < size:
                continue
            room.num_tokens -= size
            request = OfferRequest(tokens=tokens, namespace=namespace)
            try:
                reply = await self._links.call(room.peer, request, OfferReply, deadline_s=_ANSWER_S)
            except InstanceUnavailable as error:
                _log.warning("%s takes nothing over any more: %s", room.peer.instance, error)
                room.num_tokens = 0
            except MemserveError as error:
                _log.info("%s did not take a prompt over: %s", room.peer.instance, error)
                room.num_tokens += size
            else:
                room.num_tokens += size - reply.num_tokens
                self._num_tokens += reply.num_tokens
                return True
        return False

    def _in_turn(self, namespace: Namespace, tokens: bytes, rooms: list[_Room]) -> list[_Room]:
        """The same order for all prompts with the same first block."""
        if not rooms:
            return []
        first = namespace + tokens[: self._core.ledger.block_size * _TOKEN_BYTES]
        at = xxhash.xxh3_64_intdigest(first) % len(rooms)
        return rooms[at:] + rooms[:at]

    def __repr__(self) -> str:
        return f"HandOn({self._num_done} of {self._num_prompts} prompts, {self._num_tokens} tokens)"
