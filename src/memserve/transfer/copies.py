"""The library path at the receiver: blocks held in a sender's name, and copies of its blocks into ours.

Decides on AllocRequest, FreeRequest and TransferRequest. A copy has two halves: `begin` says which blocks
to fill, the shell fills and verifies them, `complete` or `fail` says what became of it. Between the halves
nothing frees the blocks, whatever the sender asks and whether it lives.
"""

import itertools

from memserve.core.clock import Clock
from memserve.core.errors import InvalidBlocks, InvalidTokens, MemserveError, TransferFailed
from memserve.core.ids import BlockId, TransferId
from memserve.transfer.books import TransferBooks
from memserve.transfer.ledger_port import Ledger
from memserve.transfer.limits import check_distinct, check_mappable, check_names, check_private, check_ttl, num_tokens
from memserve.transfer.record import TOKEN_BYTES, TransferRecord, peer_owner
from memserve.transfer.states import TransferState
from memserve.wire.messages import AllocReply, AllocRequest, TransferReply, TransferRequest


class Copies:
    """Allocate for a peer, free for it, receive from it."""

    def __init__(self, *, ledger: Ledger, books: TransferBooks, clock: Clock, block_size: int) -> None:
        self._ledger = ledger
        self._books = books
        self._clock = clock
        self._block_size = block_size
        self._busy: set[BlockId] = set()
        self._grants = itertools.count(1)

    def allocate(self, request: AllocRequest) -> AllocReply:
        """Blocks in the peer's name until it frees them, leaves, or says nothing for `ttl_s`."""
        check_ttl(request.ttl_s)
        self._books.check_room()
        record = TransferRecord(
            transfer=TransferId(f"alloc/{next(self._grants)}"),
            sender=peer_owner(request.owner, request.incarnation),
            state=TransferState.HELD,
            expires_at=self._clock.now() + request.ttl_s,
            ttl_s=request.ttl_s,
            blocks=(),
        )
        record.blocks = self._ledger.allocate(request.num_blocks, tier=request.tier, owner=record.owner)
        self._books.add(record)
        return AllocReply(blocks=record.blocks)

    def free(self, blocks: tuple[BlockId, ...], sender: str) -> None:
        """Raises InvalidBlocks unless all are held in the sender's name and none is being filled."""
        self._check_held(blocks, sender)
        self._ledger.free(blocks)
        self._forget(blocks, sender, TransferState.RELEASED)

    def begin(self, request: TransferRequest) -> tuple[BlockId, ...]:
        """Blocks to fill, in the order of `source`. Nothing of them is visible yet.

        Raises InvalidBlocks, InvalidTokens, PoolExhausted, and TransferFailed when the id was used before.
        """
        sender = peer_owner(request.source.instance, request.source.incarnation)
        self._check(request)
        if self._books.find(request.transfer, sender) or self._books.ending(request.transfer, sender):
            raise TransferFailed(f"transfer {request.transfer} was begun already: use a new id for a new transfer")
        self._books.check_room()
        record = TransferRecord(
            transfer=request.transfer,
            sender=sender,
            state=TransferState.COPYING,
            expires_at=0.0,
            ttl_s=request.ttl_s,
            blocks=(),
            tokens=request.tokens,
            namespace=request.namespace,
            borrowed=request.destination is not None,
        )
        if request.destination is not None:
            self._check_destination(request, sender)
            record.blocks = request.destination
        else:
            record.blocks = self._ledger.allocate(len(request.source.blocks), tier=request.tier, owner=record.owner)
        try:
            record.held = self._lease_held(request, record)
        except MemserveError:
            self._ledger.release_owner(record.owner)
            raise
        self._busy.update(record.blocks)
        self._books.add(record)
        return record.blocks

    def repeated(self, request: TransferRequest) -> TransferReply | None:
        """The answer to a transfer that is complete, so that repeating it changes nothing."""
        sender = peer_owner(request.source.instance, request.source.incarnation)
        record = self._books.find(request.transfer, sender)
        if record is not None and record.state is TransferState.HELD:
            return TransferReply(blocks=record.blocks)
        ending = self._books.ending(request.transfer, sender)
        return TransferReply(blocks=ending.blocks) if ending is not None and ending.blocks else None

    def complete(self, transfer: TransferId, sender: str) -> TransferReply:
        """All blocks are filled and verified: publish, or hold them in the sender's name."""
        record = self._copying(transfer, sender)
        blocks = record.blocks
        if record.tokens is not None:
            blocks = self._publish(record, record.tokens)
        elif record.sender_left:
            self._books.end(record, TransferState.FAILED)
            raise TransferFailed(f"{sender} left during transfer {transfer}")
        elif record.borrowed:
            self._books.end(record, TransferState.PUBLISHED, blocks=blocks)
        else:
            self._books.move(record, TransferState.HELD)
            record.expires_at = self._clock.now() + record.ttl_s
        return TransferReply(blocks=blocks)

    def fail(self, transfer: TransferId, sender: str) -> None:
        """The blocks were not filled: they go back, or stay the sender's when it had named them."""
        self._books.end(self._copying(transfer, sender), TransferState.FAILED)

    def extend(self, sender: str) -> None:
        """The peer lives: what is held in its name stays for another ttl_s."""
        for record in self._books:
            if record.sender == sender and record.state is TransferState.HELD:
                record.expires_at = self._clock.now() + record.ttl_s

    def is_busy(self, record: TransferRecord) -> bool:
        """A copy is filling some of its blocks."""
        return not self._busy.isdisjoint(record.blocks)

    def _publish(self, record: TransferRecord, tokens: bytes) -> tuple[BlockId, ...]:
        try:
            self._ledger.insert(tokens, record.held + record.blocks, namespace=record.namespace)
        except MemserveError:
            self._books.end(record, TransferState.FAILED)
            raise
        if record.borrowed:
            self._forget(record.blocks, record.sender, TransferState.RELEASED)
        indexed = self._ledger.match(tokens, owner=record.owner, namespace=record.namespace).blocks[len(record.held) :]
        self._books.end(record, TransferState.PUBLISHED, blocks=indexed)
        return indexed

    def _copying(self, transfer: TransferId, sender: str) -> TransferRecord:
        record = self._books.find(transfer, sender)
        if record is None or record.state is not TransferState.COPYING:
            raise TransferFailed(f"transfer {transfer} is not being copied")
        self._busy.difference_update(record.blocks)
        return record

    def _check(self, request: TransferRequest) -> None:
        num_blocks = len(request.source.blocks)
        check_ttl(request.ttl_s)
        check_private(request.private)
        check_names(request.transfer, request.namespace)
        check_distinct(request.source.blocks, "source")
        check_mappable(request.source.blocks)
        if len(request.checksums) != num_blocks:
            raise InvalidBlocks(f"{len(request.checksums)} checksums for {num_blocks} blocks: send one for each")
        num_held = request.num_held_blocks
        if num_held < 0 or (num_held and request.tokens is None):
            raise InvalidBlocks(f"{num_held} blocks are said to be held: give their tokens, and 0 or more of them")
        num_filled = num_blocks + num_held
        if request.tokens is not None and num_tokens(request.tokens) != num_filled * self._block_size:
            raise InvalidTokens(
                f"{num_tokens(request.tokens)} tokens do not fill {num_filled} blocks of {self._block_size} tokens"
            )

    def _lease_held(self, request: TransferRequest, record: TransferRecord) -> tuple[BlockId, ...]:
        """The leading blocks that are not sent, kept until the transfer ends."""
        if not request.num_held_blocks or request.tokens is None:
            return ()
        leading = request.tokens[: request.num_held_blocks * self._block_size * TOKEN_BYTES]
        held = self._ledger.match(leading, owner=record.owner, namespace=request.namespace).blocks
        if len(held) < request.num_held_blocks:
            raise TransferFailed(
                f"transfer {request.transfer} leaves {request.num_held_blocks} leading blocks out, "
                f"of which only {len(held)} are still indexed here: send all"
            )
        return held

    def _check_destination(self, request: TransferRequest, sender: str) -> None:
        destination = request.destination or ()
        if len(destination) != len(request.source.blocks):
            raise InvalidBlocks(f"{len(destination)} destination blocks for {len(request.source.blocks)} source blocks")
        self._check_held(destination, sender)

    def _check_held(self, blocks: tuple[BlockId, ...], sender: str) -> None:
        check_distinct(blocks, "named")
        held = {block for record in self._held(sender) for block in record.blocks}
        foreign = [block for block in blocks if block not in held]
        if foreign:
            raise InvalidBlocks(f"{len(foreign)} of {len(blocks)} blocks are not held for {sender}: first {foreign[0]}")
        if not self._busy.isdisjoint(blocks):
            raise InvalidBlocks("some of the blocks are being filled by a transfer: wait for its reply")

    def _held(self, sender: str) -> list[TransferRecord]:
        return [r for r in self._books if r.sender == sender and r.state is TransferState.HELD]

    def _forget(self, blocks: tuple[BlockId, ...], sender: str, state: TransferState) -> None:
        """The blocks are no longer held in the sender's name; a record without blocks ends."""
        gone = set(blocks)
        for record in self._held(sender):
            record.blocks = tuple(block for block in record.blocks if block not in gone)
            if not record.blocks:
                self._books.end(record, state)
