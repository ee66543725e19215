"""Bytes that come over the network for reserved blocks: who may write what now, and what is whole already.

Decides for a data server: `begin` before the first byte of a frame is read, `end` after its last. In between
nothing gives the blocks back and nothing is published. A part counts once it is verified, and no longer when
it is written again; a reservation that is filled this way can be committed only when every byte counts.
"""

from memserve.core.enums import DataPath
from memserve.core.errors import InvalidBlocks, InvariantError, TransferFailed
from memserve.core.ids import BlockId, TransferId, block_index
from memserve.transfer.books import TransferBooks
from memserve.transfer.record import Arrived, Spans, TransferRecord
from memserve.transfer.states import TransferState
from memserve.wire.data_messages import WriteRequest


class Arrivals:
    """Frames for the reservations of one pool."""

    def __init__(self, books: TransferBooks) -> None:
        self._books = books

    def sender(self, transfer: TransferId) -> str:
        """Whose open reservation it is. Raises TransferFailed when there is none."""
        return self._reserved(transfer).sender

    def begin(self, request: WriteRequest, *, block_bytes: int) -> tuple[BlockId, ...]:
        """The blocks to write into. Raises InvalidBlocks, and TransferFailed when the reservation is not open."""
        record = self._reserved(request.transfer)
        arrived = record.arrived or Arrived(
            block_bytes=block_bytes, blocks={block_index(block): block for block in record.blocks}
        )
        _check(request, arrived)
        record.arrived = arrived
        arrived.under_way.append(request)
        for index in request.blocks:
            arrived.verified[index] = _without(arrived.verified.get(index, ()), request)
        return tuple(arrived.blocks[index] for index in request.blocks)

    def end(self, request: WriteRequest, *, verified: bool) -> None:
        """The frame is in, or its connection is gone: nothing of it is written any more."""
        record = self._books.find(request.transfer, None)
        if record is None or record.arrived is None:
            raise InvariantError(f"transfer {request.transfer} ended while a frame was written for it")
        record.arrived.under_way.remove(request)
        if verified:
            for index in request.blocks:
                record.arrived.verified[index] = _with(record.arrived.verified[index], request)
        if record.is_given_up and not is_busy(record):
            self._books.end(record, TransferState.ABORTED)

    def _reserved(self, transfer: TransferId) -> TransferRecord:
        record = self._books.find(transfer, None)
        if record is None or record.state is not TransferState.RESERVED or record.is_given_up:
            raise TransferFailed(f"transfer {transfer} has no open reservation here: nothing may be written for it")
        return record


def is_busy(record: TransferRecord) -> bool:
    """A frame is being written into its blocks."""
    return record.arrived is not None and bool(record.arrived.under_way)


def check_whole(record: TransferRecord) -> None:
    """Raise TransferFailed when bytes come over the network and are not all there, or more are under way."""
    if record.path is DataPath.SHM and record.arrived is None:
        return
    arrived = record.arrived or Arrived(block_bytes=0, blocks={})
    num_whole = sum(spans == ((0, arrived.block_bytes),) for spans in arrived.verified.values())
    if arrived.under_way or num_whole < len(record.blocks):
        raise TransferFailed(
            f"transfer {record.transfer}: {num_whole} of {len(record.blocks)} blocks are verified and "
            f"{len(arrived.under_way)} frames under way: commit when every frame was acknowledged"
        )


def _check(request: WriteRequest, arrived: Arrived) -> None:
    indexes = set(request.blocks)
    if not indexes or len(indexes) != len(request.blocks) or not indexes <= arrived.blocks.keys():
        raise InvalidBlocks(
            f"{len(request.blocks)} blocks to write for transfer {request.transfer}, {len(indexes)} of them distinct "
            f"and {len(indexes & arrived.blocks.keys())} of them reserved for it: name each reserved one once"
        )
    if not 0 <= request.offset < request.offset + request.length <= arrived.block_bytes:
        raise InvalidBlocks(
            f"{request.length} bytes at {request.offset} do not lie inside a block of {arrived.block_bytes} bytes"
        )
    if len(request.checksums) != len(request.blocks):
        raise InvalidBlocks(f"{len(request.checksums)} checksums for {len(request.blocks)} blocks: send one for each")
    if any(_overlap(request, other) and not indexes.isdisjoint(other.blocks) for other in arrived.under_way):
        raise InvalidBlocks(f"another connection is writing the same bytes for transfer {request.transfer}")


def _overlap(one: WriteRequest, other: WriteRequest) -> bool:
    return one.offset < other.offset + other.length and other.offset < one.offset + one.length


def _without(spans: Spans, request: WriteRequest) -> Spans:
    start, end = request.offset, request.offset + request.length
    before = tuple((a, min(b, start)) for a, b in spans if a < start)
    return (*before, *((max(a, end), b) for a, b in spans if b > end))


def _with(spans: Spans, request: WriteRequest) -> Spans:
    """`spans` has a gap there; neighbours that touch become one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted((*spans, (request.offset, request.offset + request.length))):
        if merged and merged[-1][1] == start:
            merged[-1] = merged[-1][0], end
        else:
            merged.append((start, end))
    return tuple(merged)
