"""Reservations that were given up, and the peers that have not heard of it yet.

A peer that stands still, or cannot be reached, may open a reservation long after its sender has stopped waiting for
the answer, and keeps it for as long as an engine may need to fill it. So an abort that nobody acknowledges is sent
again, with growing waits, until the peer has heard it, is somebody else, or has ended the reservation by itself.

Lives in the agent's event loop; not thread-safe. Bounded: the oldest is dropped, and left to the peer's own clock.
"""

import asyncio
from collections import OrderedDict

import msgspec

from memserve.core.clock import Clock
from memserve.core.errors import DeadlineExceeded, InstanceUnavailable
from memserve.core.ids import TransferId
from memserve.instance.peer_links import PeerLinks
from memserve.instance.remote_blocks import CONTROL_DEADLINE_S
from memserve.wire.messages import AbortRequest, AckReply, PeerInfo

AGAIN_S = 1.0
"""After the first attempt; twice as long after each further one, up to:"""
_MAX_WAIT_S = 15.0
_FOR_S = 1200.0
"""By then the peer has ended a reservation for the longest that an engine may take (Reservations)."""
MAX_PENDING = 4096


class _Pending(msgspec.Struct, frozen=True, kw_only=True):
    to: PeerInfo
    due: float
    wait_s: float
    until: float


class Aborts:
    """Of one pool."""

    def __init__(self, links: PeerLinks, *, clock: Clock) -> None:
        self._links = links
        self._clock = clock
        self._pending: OrderedDict[TransferId, _Pending] = OrderedDict()

    async def send(self, to: PeerInfo, transfer: TransferId) -> None:
        """Raises as PeerLinks.call; where there was no answer in time, `tick` goes on with it."""
        try:
            await self._tell(to, transfer)
        except DeadlineExceeded:
            now = self._clock.now()
            self._keep(transfer, _Pending(to=to, due=now + AGAIN_S, wait_s=AGAIN_S, until=now + _FOR_S))
            raise

    async def tick(self) -> None:
        """Tell again what is due; peers do not wait for each other."""
        now = self._clock.now()
        by_peer: dict[str, list[TransferId]] = {}
        for transfer, pending in self._pending.items():
            if pending.due <= now:
                by_peer.setdefault(pending.to.endpoint, []).append(transfer)
        await asyncio.gather(*map(self._tell_again, by_peer.values()))

    async def _tell_again(self, transfers: list[TransferId]) -> None:
        """To one peer: the first that gets no answer says that the others would get none, either."""
        is_silent = False
        for transfer in transfers:
            pending = self._pending.pop(transfer, None)
            if pending is None:
                continue
            if not is_silent:
                try:
                    await self._tell(pending.to, transfer)
                    continue
                except DeadlineExceeded:
                    is_silent = True
                except InstanceUnavailable:
                    continue  # somebody else is there now: what the peer held went with it
            wait_s = min(2 * pending.wait_s, _MAX_WAIT_S)
            due = self._clock.now() + wait_s
            if due < pending.until:
                self._keep(transfer, msgspec.structs.replace(pending, due=due, wait_s=wait_s))

    async def _tell(self, to: PeerInfo, transfer: TransferId) -> None:
        await self._links.call(to, AbortRequest(transfer=transfer), AckReply, deadline_s=CONTROL_DEADLINE_S)

    def _keep(self, transfer: TransferId, pending: _Pending) -> None:
        self._pending[transfer] = pending
        if len(self._pending) > MAX_PENDING:
            self._pending.popitem(last=False)

    def __len__(self) -> int:
        return len(self._pending)

    def __repr__(self) -> str:
        return f"Aborts({len(self)} not heard yet)"
