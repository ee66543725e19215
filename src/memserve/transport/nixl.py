"""Bytes between two instances by NIXL: UCX picks RDMA, shared memory or TCP, the receiver reads the sender's memory.

A data connection arranges it, with TLS where that is on (what UCX carries is not encrypted). `fetch`: the sender's
data server shows the offered blocks to whoever has the ticket, and keeps NIXL going until the receiver says that it
is done or has gone. `write`: this side shows its parts, frame by frame, and the receiver's data server reads them
into the reserved room. UCX fills a staging buffer; from there blocks are copied and verified as on every path. Owns
its connections and closes the agent. Thread-safe.
"""

from collections.abc import Iterable, Sequence

from memserve.config import LOOPBACK, Network
from memserve.core.clock import Clock
from memserve.core.enums import DataPath
from memserve.core.errors import DeadlineExceeded, ProtocolError
from memserve.transport.base import Offer, RunCopy, check_arrived, one_by_one
from memserve.transport.connections import Connections
from memserve.transport.framed_socket import FramedSocket, TcpLimits
from memserve.transport.nixl_agent import NixlAgent
from memserve.transport.rooms import Part, RemoteRoom, take_acknowledgement, write_request
from memserve.wire.data_messages import ExposeReply, ExposeRequest, ShownWriteRequest
from memserve.wire.messages import AckReply, PeerInfo


class NixlTransport:
    """A Transport wherever UCX leads."""

    name = DataPath.NIXL

    def __init__(
        self, agent: NixlAgent, *, clock: Clock, limits: TcpLimits | None = None, network: Network = LOOPBACK
    ) -> None:
        """`agent` may be shared with a data server, which is closed first."""
        self._agent = agent
        self._limits = limits or TcpLimits()
        self._connections = Connections(limits=self._limits, clock=clock, network=network)
        self._clock = clock

    def reaches(self, peer: PeerInfo) -> bool:
        """Whether it shows its blocks to NIXL; nobody asks it, nor UCX."""
        return peer.nixl and self._connections.speaks_to(peer.data)

    def fetch(self, offer: Offer, runs: Sequence[RunCopy]) -> None:
        copies = one_by_one(runs)
        request = ExposeRequest(
            transfer=offer.transfer, ticket=offer.ticket, blocks=tuple(copy.source_index for copy in copies)
        )
        with self._connections.borrow(offer.peer.data) as framed:
            framed.send(request)
            reply, num_bytes = framed.receive()
            if not isinstance(reply, ExposeReply) or num_bytes or len(reply.addresses) != len(copies):
                raise ProtocolError(f"{offer.peer.instance} answered {type(reply).__name__} to an ExposeRequest")
            targets = [copy.target for copy in copies]
            for copy, found in zip(copies, self._agent.copy(reply, targets, limits=self._limits), strict=True):
                check_arrived(copy.source_index, found, announced=copy.checksum)
            framed.send(AckReply())

    def write(self, room: RemoteRoom, parts: Iterable[Part]) -> int:
        """As RoomWriter; the data of a part are pieces of one object, which is shown to NIXL."""
        num_frames = 0
        with self._connections.borrow(room.endpoint) as framed:
            for part in parts:
                shown = self._agent.show(part.data)
                framed.send(ShownWriteRequest(write=write_request(room, part), shown=shown))
                self._keep_going(framed, num_bytes=sum(data.nbytes for data in part.data))
                take_acknowledgement(framed)
                num_frames += 1
        return num_frames

    def close(self) -> None:
        """And the agent."""
        self._connections.close()
        self._agent.close()

    def _keep_going(self, framed: FramedSocket, *, num_bytes: int) -> None:
        """Until the receiver has answered, or a little longer than it may take."""
        end = self._clock.now() + 2 * (self._limits.stall_s + num_bytes / self._limits.min_bytes_per_s)
        while framed.is_quiet:
            if self._clock.now() > end:
                raise DeadlineExceeded(f"{framed} has not read {num_bytes} bytes by NIXL in time: given up")
            self._agent.progress()

    def __repr__(self) -> str:
        return f"NixlTransport({self._agent}, {self._connections})"
