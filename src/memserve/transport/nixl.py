"""Bytes between two instances by NIXL: UCX picks RDMA, shared memory or TCP, the receiver reads the sender's memory.

A data connection arranges it, with TLS where that is on (what UCX carries is not encrypted): the sender's data
server shows the offered blocks to whoever has the ticket, and keeps NIXL going until the receiver says that it is
done or has gone. UCX fills a staging buffer; from there blocks are copied and verified as on every path. Owns its
connections. Thread-safe; one fetch at a time.
"""

import threading
from collections.abc import Iterator, Sequence

from memserve.config import LOOPBACK, Network
from memserve.core.clock import Clock
from memserve.core.enums import DataPath
from memserve.core.errors import ProtocolError
from memserve.transport.base import BlockCopy, Offer, RunCopy, check_arrived, one_by_one
from memserve.transport.connections import Connections
from memserve.transport.framed_socket import TcpLimits
from memserve.transport.nixl_agent import STAGING_BYTES, NixlAgent
from memserve.transport.verified_copy import copy_hashed
from memserve.wire.data_messages import ExposeReply, ExposeRequest
from memserve.wire.messages import AckReply, PeerInfo


class NixlTransport:
    """A Transport wherever UCX leads."""

    name = DataPath.NIXL

    def __init__(
        self, agent: NixlAgent, *, clock: Clock, limits: TcpLimits | None = None, network: Network = LOOPBACK
    ) -> None:
        """`agent` is shared with the data server, and closed by its owner."""
        self._agent = agent
        self._limits = limits or TcpLimits()
        self._connections = Connections(limits=self._limits, clock=clock, network=network)
        self._lock = threading.Lock()

    def reaches(self, peer: PeerInfo) -> bool:
        """Whether it shows its blocks to NIXL; nobody asks it, nor UCX."""
        return peer.nixl and self._connections.speaks_to(peer.data)

    def fetch(self, offer: Offer, runs: Sequence[RunCopy]) -> None:
        copies = one_by_one(runs)
        request = ExposeRequest(
            transfer=offer.transfer, ticket=offer.ticket, blocks=tuple(copy.source_index for copy in copies)
        )
        with self._lock, self._connections.borrow(offer.peer.data) as framed:
            framed.send(request)
            reply, num_bytes = framed.receive()
            if not isinstance(reply, ExposeReply) or num_bytes or len(reply.addresses) != len(copies):
                raise ProtocolError(f"{offer.peer.instance} answered {type(reply).__name__} to an ExposeRequest")
            for batch, addresses in _batches(copies, reply.addresses):
                self._fetch(reply, batch, addresses)
            framed.send(AckReply())

    def close(self) -> None:
        self._connections.close()

    def _fetch(self, shown: ExposeReply, copies: Sequence[BlockCopy], addresses: Sequence[int]) -> None:
        pieces = [(address, copy.target.nbytes) for address, copy in zip(addresses, copies, strict=True)]
        num_bytes = sum(length for _, length in pieces)
        deadline_s = self._limits.stall_s + num_bytes / self._limits.min_bytes_per_s
        for copy, staged in zip(copies, self._agent.read(shown, pieces, deadline_s=deadline_s), strict=True):
            check_arrived(copy.source_index, copy_hashed(copy.target, staged), announced=copy.checksum)

    def __repr__(self) -> str:
        return f"NixlTransport({self._agent}, {self._connections})"


def _batches(
    copies: Sequence[BlockCopy], addresses: Sequence[int]
) -> Iterator[tuple[Sequence[BlockCopy], Sequence[int]]]:
    """As many at once as the staging buffer holds, at least one."""
    first = num_bytes = 0
    for last, copy in enumerate(copies):
        if last > first and num_bytes + copy.target.nbytes > STAGING_BYTES:
            yield copies[first:last], addresses[first:last]
            first, num_bytes = last, 0
        num_bytes += copy.target.nbytes
    yield copies[first:], addresses[first:]
