"""What data connections may touch of one pool: rooms of open reservations to write, offered blocks to read.

Who shows the ticket of a transfer is let in, and only to its blocks. Tickets are keyed digests of the
transfer and its owner; the key lives and dies with this pool. Thread-safe; takes the pool's lock for
decisions only.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from memserve.core.errors import InvalidBlocks, MemserveError, TransferFailed
from memserve.core.ids import BlockId, TransferId, block_index
from memserve.instance.core import PoolCore
from memserve.wire.data_messages import ExposeRequest, ReadRequest, WriteRequest


class _Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks that a peer may read for the length of one transfer."""

    ticket: bytes
    blocks: dict[int, BlockId]
    """By position in the arena."""


class DataDoor:
    """The BlockDoor of one pool."""

    def __init__(self, core: PoolCore, *, block_bytes: int) -> None:
        self._core = core
        self._block_bytes = block_bytes
        self._key = secrets.token_bytes(32)
        self._offers: dict[TransferId, _Offer] = {}

    def ticket(self, transfer: TransferId, owner: str) -> bytes:
        """Opens the reservation that `owner` ("instance/incarnation") has here under this id."""
        named = msgspec.msgpack.encode((transfer, owner))
        return hashlib.blake2b(named, key=self._key, digest_size=16).digest()

    @contextmanager
    def offer(self, transfer: TransferId, blocks: Sequence[BlockId]) -> Iterator[bytes]:
        """Let whoever shows the ticket read these blocks until the end of the `with` block."""
        offer = _Offer(ticket=secrets.token_bytes(16), blocks={block_index(block): block for block in blocks})
        with self._core.lock:
            self._offers[transfer] = offer
        try:
            yield offer.ticket
        finally:
            with self._core.lock:
                del self._offers[transfer]

    def begin_write(self, request: WriteRequest) -> list[memoryview]:
        arrivals = self._core.sessions.arrivals
        with self._core.lock:
            ticket = self.ticket(request.transfer, arrivals.sender(request.transfer))
            _check_ticket(request, ticket)
            blocks = arrivals.begin(request, block_bytes=self._block_bytes)
        end = request.offset + request.length
        try:
            return [self._core.memory.view(block)[request.offset : end] for block in blocks]
        except MemserveError:
            self.end_write(request, verified=False)
            raise

    def end_write(self, request: WriteRequest, *, verified: bool) -> None:
        with self._core.lock:
            self._core.sessions.arrivals.end(request, verified=verified)

    def begin_read(self, request: ReadRequest | ExposeRequest) -> list[memoryview]:
        offer = self._offered(request)
        missing = [index for index in request.blocks if index not in offer.blocks]
        if missing or not request.blocks:
            raise InvalidBlocks(
                f"{len(missing)} of {len(request.blocks)} blocks are not offered by transfer {request.transfer}"
            )
        return [self._core.memory.view(offer.blocks[index]) for index in request.blocks]

    def check_offered(self, request: ReadRequest | ExposeRequest) -> None:
        self._offered(request)

    def _offered(self, request: ReadRequest | ExposeRequest) -> _Offer:
        with self._core.lock:
            offer = self._offers.get(request.transfer)
        if offer is None:
            raise TransferFailed(f"transfer {request.transfer} offers nothing here, or no longer")
        _check_ticket(request, offer.ticket)
        return offer

    def __repr__(self) -> str:
        return f"DataDoor({len(self._offers)} transfers offered)"


def _check_ticket(request: WriteRequest | ReadRequest | ExposeRequest, ticket: bytes) -> None:
    if not hmac.compare_digest(request.ticket, ticket):
        raise TransferFailed(f"the ticket shown is not that of transfer {request.transfer}: nothing was touched")
