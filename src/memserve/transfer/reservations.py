"""The engine path at the receiver: room before or while KV is computed, published in one step.

Decides on ReserveRequest, CommitRequest, AbortRequest and ReleaseRequest, and answers what has been
handed over for a request. The sender writes straight into reserved blocks, so nothing but its own word
(commit, abort), its death or the end of its time frees them: it must stop writing `ttl_s` after it SENT
the request, and this side waits that long again before it reuses the blocks. What this side holds on disk
only is sent anew: an engine reads what is handed over in place.
"""

from memserve.core.clock import Clock
from memserve.core.enums import Tier
from memserve.core.errors import InvariantError, TransferFailed
from memserve.core.ids import BlockId, RequestId, TransferId, block_tier, num_mappable
from memserve.transfer.arrivals import check_whole, is_busy
from memserve.transfer.books import Ending, TransferBooks
from memserve.transfer.handoff import ABSENT, Handoff, HandoffState
from memserve.transfer.ledger_port import Ledger
from memserve.transfer.limits import check_names, check_ttl, num_tokens
from memserve.transfer.record import TOKEN_BYTES, TransferRecord, peer_owner
from memserve.transfer.states import TransferState
from memserve.wire.messages import CommitRequest, ReserveReply, ReserveRequest

UNCLAIMED_S = 20.0
"""What is handed over for a request that does not come goes after this: whoever would have sent it is gone."""
_GRACE = 2.0
"""A reservation is freed after ttl_s times this, when no writer can be left."""


class Reservations:
    """Reserve, commit, abort, hand over."""

    def __init__(self, *, ledger: Ledger, books: TransferBooks, clock: Clock, block_size: int) -> None:
        self._ledger = ledger
        self._books = books
        self._clock = clock
        self._block_size = block_size

    def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Room for the KV of `tokens`. The same transfer id gets the same answer and no second room.

        Raises PoolExhausted, InvalidTokens, and TransferFailed when the transfer has ended already.
        """
        sender = peer_owner(request.sender, request.incarnation)
        record = self._books.find(request.transfer, sender)
        if record is None:
            self._refuse_ended(request.transfer, sender)
            record = self._open(request, sender)
        if record.state is not TransferState.RESERVED:
            raise TransferFailed(f"transfer {request.transfer} is {record.state} already")
        return ReserveReply(num_held_blocks=len(record.held), blocks=record.blocks)

    def commit(self, request: CommitRequest, sender: str | None) -> None:
        """Make the blocks readable, in one step, when all ranks have committed; repeating it changes nothing.

        The id of the transfer is proof enough: an engine's worker, which is nobody's peer, may commit.

        Raises TransferFailed when the reservation is gone, `num_blocks` is not what was reserved, or what
        came over the network is not whole.
        """
        record = self._books.find(request.transfer, sender)
        if record is None:
            self._check_committed(request.transfer, sender)
            return
        if record.state is TransferState.KEPT:
            return
        if record.state is not TransferState.RESERVED:
            raise TransferFailed(f"transfer {request.transfer} is {record.state}: there is nothing to commit")
        if not 0 <= request.rank < request.num_ranks:
            raise TransferFailed(f"rank {request.rank} of {request.num_ranks} does not exist: nothing was published")
        if request.num_blocks != len(record.blocks):
            raise TransferFailed(
                f"transfer {request.transfer} reserved {len(record.blocks)} blocks but {request.num_blocks} were "
                "written: write them all or abort"
            )
        record.committed_ranks.add(request.rank)
        if len(record.committed_ranks) < request.num_ranks:
            return
        check_whole(record)
        blocks = self._index(record) if request.insert else record.held + record.blocks
        self._keep(record, blocks)

    def abort(self, transfer: TransferId, sender: str | None) -> None:
        """The sender has stopped writing and gives up; a later reserve of the same id is refused."""
        check_names(transfer)
        record = self._books.find(transfer, sender)
        if record is not None and record.state is TransferState.RESERVED and is_busy(record):
            record.is_given_up = True
        elif record is not None and record.state is TransferState.RESERVED:
            self._books.end(record, TransferState.ABORTED)
        elif record is None and self._books.ending(transfer, sender) is None:
            self._books.remember(transfer, Ending(sender=sender, state=TransferState.ABORTED))

    def release(self, request: RequestId) -> None:
        """Nobody will ask: what is kept goes at once, what is still being written when its writer is done."""
        for record in self._books.of_request(request):
            self._drop(record, TransferState.RELEASED)

    def claim(self, request: RequestId) -> None:
        """The request has come: what is handed over for it stays for as long as its sender said."""
        for record in self._books.of_request(request):
            if record.state is TransferState.KEPT and not record.is_claimed:
                record.expires_at = self._clock.now() + record.ttl_s
            record.is_claimed = True

    def handoff(self, request: RequestId, tokens: bytes) -> Handoff:
        """What is here for exactly these tokens of this request, which claims it; of several the latest READY one."""
        self.claim(request)
        found = [record for record in self._books.of_request(request) if record.tokens == tokens]
        ready = [record for record in found if record.state is TransferState.KEPT]
        if not found:
            return ABSENT
        record = ready[-1] if ready else found[-1]
        return Handoff(
            state=HandoffState.READY if ready else HandoffState.PENDING,
            blocks=record.blocks if ready else (),
            num_tokens=self._num_covered(record),
        )

    def finish_handoff(self, request: RequestId, tokens: bytes) -> None:
        """The blocks are loaded: leases and the tail are given back; idempotent."""
        for record in self._books.of_request(request):
            if record.tokens == tokens:
                self._drop(record, TransferState.TAKEN)

    def _open(self, request: ReserveRequest, sender: str) -> TransferRecord:
        tokens = num_tokens(request.tokens)
        check_ttl(request.ttl_s)
        check_names(request.transfer, request.request, request.namespace)
        self._books.check_room()
        whole = tokens // self._block_size
        tail = 1 if request.tail and tokens % self._block_size else 0
        record = TransferRecord(
            transfer=request.transfer,
            sender=sender,
            state=TransferState.RESERVED,
            expires_at=self._clock.now() + _GRACE * request.ttl_s,
            ttl_s=request.ttl_s,
            blocks=(),
            tokens=request.tokens,
            namespace=request.namespace,
            request=request.request if request.handoff else None,
            path=request.path,
        )
        try:
            if request.reuse and whole:
                leased = self._lease(record)
                record.held = leased[: num_mappable(leased)]
            if whole + tail > len(record.held):
                record.blocks = self._ledger.allocate(
                    whole + tail - len(record.held), tier=Tier.DRAM, owner=record.owner
                )
        except Exception:
            self._ledger.release_owner(record.owner)
            raise
        self._books.add(record)
        return record

    def _whole_tokens(self, record: TransferRecord) -> bytes:
        tokens = record.tokens or b""
        unit = self._block_size * TOKEN_BYTES
        return tokens[: len(tokens) // unit * unit]

    def _lease(self, record: TransferRecord) -> tuple[BlockId, ...]:
        return self._ledger.match(self._whole_tokens(record), owner=record.owner, namespace=record.namespace).blocks

    def _index(self, record: TransferRecord) -> tuple[BlockId, ...]:
        """Publish the whole blocks; returns what the index names now, leased, and the tail."""
        tokens = self._whole_tokens(record)
        num_whole = len(tokens) // TOKEN_BYTES // self._block_size
        blocks = record.held + record.blocks
        if not num_whole:
            return blocks
        self._ledger.insert(tokens, blocks[:num_whole], namespace=record.namespace)
        indexed = self._lease(record)
        if len(indexed) != num_whole:
            raise InvariantError(f"{num_whole} blocks were indexed and {len(indexed)} are found: {record}")
        # What was leased in DRAM stays readable there, even if somebody deleted it and stored it anew on disk.
        readable = (
            own if block_tier(there) is Tier.DISK else there for own, there in zip(blocks, indexed, strict=False)
        )
        return (*readable, *blocks[num_whole:])

    def _keep(self, record: TransferRecord, blocks: tuple[BlockId, ...]) -> None:
        if record.request is None:
            self._books.end(record, TransferState.PUBLISHED)
            return
        self._books.move(record, TransferState.KEPT)
        record.blocks = blocks
        kept_s = record.ttl_s if record.is_claimed else min(record.ttl_s, UNCLAIMED_S)
        record.expires_at = self._clock.now() + kept_s

    def _drop(self, record: TransferRecord, state: TransferState) -> None:
        if record.state is TransferState.KEPT:
            self._books.end(record, state)
        else:
            self._books.unname(record)

    def _num_covered(self, record: TransferRecord) -> int:
        """All tokens when a tail block is there or none is needed, else those of the whole blocks."""
        num_blocks = len(record.blocks) + (0 if record.state is TransferState.KEPT else len(record.held))
        return min(num_blocks * self._block_size, len(record.tokens or b"") // TOKEN_BYTES)

    def _refuse_ended(self, transfer: TransferId, sender: str) -> None:
        ending = self._books.ending(transfer, sender)
        if ending is not None:
            raise TransferFailed(f"transfer {transfer} is {ending.state} already: start a new one")

    def _check_committed(self, transfer: TransferId, sender: str | None) -> None:
        ending = self._books.ending(transfer, sender)
        committed = {TransferState.PUBLISHED, TransferState.TAKEN, TransferState.RELEASED}
        if ending is None or ending.state not in committed:
            story = f"is {ending.state}" if ending else "is not known here"
            raise TransferFailed(f"transfer {transfer} {story}: nothing was published")
