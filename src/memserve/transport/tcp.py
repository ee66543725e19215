"""Bytes between two instances over the network: the client's side of data connections.

`fetch` asks the sender of a transfer for its blocks and receives them where they belong; `write` brings parts
of blocks into room that a receiver has reserved. Both go straight from and to the memory that is named.
Owns its connections. Thread-safe.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from memserve.config import LOOPBACK, Network
from memserve.core.clock import Clock
from memserve.core.enums import DataPath
from memserve.core.errors import ProtocolError
from memserve.transport.base import BlockCopy, Offer, RunCopy, check_arrived, one_by_one
from memserve.transport.connections import Connections
from memserve.transport.framed_socket import TcpLimits
from memserve.transport.rooms import Part, RemoteRoom, take_acknowledgement, write_request
from memserve.transport.verified_copy import CopyThreads
from memserve.wire.data_messages import ReadReply, ReadRequest
from memserve.wire.messages import PeerInfo

_WINDOW = 4
"""Frames sent before the first of them must be acknowledged."""


class TcpTransport:
    """A Transport between any two hosts."""

    name = DataPath.TCP

    def __init__(
        self,
        *,
        clock: Clock,
        threads: CopyThreads | None = None,
        limits: TcpLimits | None = None,
        network: Network = LOOPBACK,
    ) -> None:
        """`threads`, closed by their owner, share long fetches; None leaves them to the caller's."""
        self._threads = threads or CopyThreads(1)
        self._limits = limits or TcpLimits()
        self._connections = Connections(limits=self._limits, clock=clock, network=network)

    def reaches(self, peer: PeerInfo) -> bool:
        """Whether it has a data server that wants TLS where this side does; nobody asks it."""
        return self._connections.speaks_to(peer.data)

    def fetch(self, offer: Offer, runs: Sequence[RunCopy]) -> None:
        """Long ones in ranges of blocks over several connections at once."""
        copies = one_by_one(runs)
        num_bytes = sum(copy.target.nbytes for copy in copies)
        at_once = max(1, self._limits.range_bytes * len(copies) // max(num_bytes, 1))
        ranges = [copies[first : first + at_once] for first in range(0, len(copies), at_once)]
        self._threads.run(partial(self._fetch, offer), ranges, num_bytes=num_bytes if len(ranges) > 1 else 0)

    def _fetch(self, offer: Offer, copies: Sequence[BlockCopy]) -> None:
        request = ReadRequest(
            transfer=offer.transfer, ticket=offer.ticket, blocks=tuple(copy.source_index for copy in copies)
        )
        with self._connections.borrow(offer.peer.data) as framed:
            framed.send(request)
            reply, num_bytes = framed.receive()
            num_expected = sum(copy.target.nbytes for copy in copies)
            if not isinstance(reply, ReadReply) or num_bytes != num_expected:
                raise ProtocolError(
                    f"{offer.peer.instance} answered {type(reply).__name__} and {num_bytes} bytes instead of the "
                    f"{num_expected} bytes of {len(copies)} blocks"
                )
            for copy, found in zip(copies, framed.fill([copy.target for copy in copies]), strict=True):
                check_arrived(copy.source_index, found, announced=copy.checksum)

    def write(self, room: RemoteRoom, parts: Iterable[Part]) -> int:
        """As RoomWriter; a few frames are under way at once."""
        num_frames = num_acknowledged = 0
        with self._connections.borrow(room.endpoint) as framed:
            for part in parts:
                framed.send(write_request(room, part), part.data)
                num_frames += 1
                if num_frames - num_acknowledged >= _WINDOW:
                    take_acknowledgement(framed)
                    num_acknowledged += 1
            for _ in range(num_frames - num_acknowledged):
                take_acknowledgement(framed)
        return num_frames

    def close(self) -> None:
        self._connections.close()

    def __repr__(self) -> str:
        return f"TcpTransport({self._connections})"
