"""Transfer sessions over a channel that loses, repeats and reorders, with deaths, time and pressure between.

After every step: the ledger's books balance; nothing is matched that was not committed; and the room of a
sender that may still be writing belongs to nobody else.
"""

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memserve.core.enums import Tier
from memserve.core.errors import InvalidBlocks, PoolExhausted, TransferFailed
from memserve.core.ids import BlockId, Incarnation, RequestId, TransferId
from memserve.pool.block import BlockState
from memserve.transfer.handoff import HandoffState
from memserve.transfer.record import peer_owner
from memserve.wire.messages import AllocRequest, CommitRequest, ReserveRequest, TransferRequest
from tests.transfer.parts import LIFE, SENDER, TTL_S, Receiver, commit, reserve, tokens, transfer

PROMPTS = (tokens(10), tokens(18), tokens(8, first=100))
NUM_TRANSFERS = 6
REFUSALS = (TransferFailed, PoolExhausted, InvalidBlocks)
"""What a peer may be told; a bug of ours is none of them."""
Parcel = tuple[str, int, object]
"""What is asked, by which life of the sender, and the message."""


class LossyTransfers(RuleBasedStateMachine):
    """The model: what was sent, what may be being written, what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.receiver = Receiver()
        self.life = int(LIFE)
        self.network: list[Parcel] = []
        self.writing: dict[TransferId, tuple[float, tuple[BlockId, ...]]] = {}
        self.given_up: set[TransferId] = set()
        self.published: set[bytes] = set()
        self.copying: dict[TransferId, bytes | None] = {}
        self.local: list[tuple[BlockId, ...]] = []

    def post(self, kind: str, message: object) -> None:
        if len(self.network) < 20:
            self.network.append((kind, self.life, message))

    def name(self, number: int) -> TransferId:
        return TransferId(f"p/{self.life}/{number}")

    @rule(number=st.integers(0, NUM_TRANSFERS - 1), request=st.sampled_from(["r1", "r2"]))
    def send_reserve(self, number: int, request: str) -> None:
        asked = reserve(
            self.name(number),
            data=PROMPTS[number % 3],
            request=request if number % 2 else "r1",
            reuse=number % 2 == 0,
            tail=number != 4,
            handoff=number != 5,
            incarnation=Incarnation(self.life),
        )
        if self.name(number) not in self.given_up:
            self.post("reserve", asked)

    @rule(number=st.integers(0, NUM_TRANSFERS - 1))
    def send_commit(self, number: int) -> None:
        if self.name(number) in self.writing:
            _, blocks = self.writing.pop(self.name(number))
            self.given_up.add(self.name(number))
            self.post("commit", commit(self.name(number), num_blocks=len(blocks), insert=number != 3))

    @rule(number=st.integers(0, NUM_TRANSFERS - 1))
    def send_abort(self, number: int) -> None:
        self.writing.pop(self.name(number), None)
        self.given_up.add(self.name(number))
        self.post("abort", self.name(number))

    @rule(number=st.integers(10, 12), insert=st.booleans())
    def send_transfer(self, number: int, insert: bool) -> None:
        asked = transfer(self.name(number), data=PROMPTS[2] if insert else None)
        self.post("transfer", asked)

    @rule(index=st.integers(0, 19), repeat=st.booleans())
    def deliver(self, index: int, repeat: bool) -> None:
        if index < len(self.network):
            parcel = self.network[index] if repeat else self.network.pop(index)
            if parcel[1] == self.life:  # the agent has closed the connection of an earlier life
                with contextlib.suppress(*REFUSALS):
                    self.handle(parcel)

    def handle(self, parcel: Parcel) -> None:
        kind, life, message = parcel
        sender = peer_owner(SENDER, Incarnation(life))
        sessions = self.receiver.sessions
        if kind == "reserve" and isinstance(message, ReserveRequest):
            sent_at = self.receiver.clock.now()
            reply = sessions.reservations.reserve(message)
            if message.transfer not in self.given_up and message.transfer not in self.writing:
                self.writing[message.transfer] = (sent_at + TTL_S, reply.blocks)
        elif kind == "commit" and isinstance(message, CommitRequest):
            data = PROMPTS[int(message.transfer.rsplit("/", 1)[1]) % 3]
            sessions.reservations.commit(message, sender)
            if message.insert:
                self.published.add(data)
        elif kind == "abort":
            sessions.reservations.abort(TransferId(str(message)), sender)
        elif isinstance(message, TransferRequest) and sessions.copies.repeated(message) is None:
            sessions.copies.begin(message)
            self.copying[message.transfer] = message.tokens

    @rule(index=st.integers(0, 19))
    def lose(self, index: int) -> None:
        if index < len(self.network):
            self.network.pop(index)

    @rule(works=st.booleans())
    def end_copy(self, works: bool) -> None:
        if not self.copying:
            return
        name, data = self.copying.popitem()
        sender = peer_owner(SENDER, Incarnation(1))  # TransferRequests of the parts name this life
        if not works:
            self.receiver.sessions.copies.fail(name, sender)
            return
        try:
            self.receiver.sessions.copies.complete(name, sender)
        except REFUSALS:
            return
        if data is not None:
            self.published.add(data)

    @rule(seconds=st.floats(0.1, 2 * TTL_S))
    def pass_time(self, seconds: float) -> None:
        self.receiver.clock.advance(seconds)
        now = self.receiver.clock.now()
        self.writing = {name: room for name, room in self.writing.items() if room[0] > now}
        self.receiver.sessions.expire()

    @rule(process_gone=st.booleans())
    def sender_dies(self, process_gone: bool) -> None:
        self.receiver.sessions.peer_left(SENDER, Incarnation(self.life), process_gone=process_gone)
        if process_gone:
            self.writing.clear()
        self.life += 1

    @rule(request=st.sampled_from(["r1", "r2"]), prompt=st.sampled_from(PROMPTS), take=st.booleans())
    def serve(self, request: str, prompt: bytes, take: bool) -> None:
        reservations = self.receiver.sessions.reservations
        handoff = reservations.handoff(RequestId(request), prompt)
        if handoff.state is HandoffState.READY:
            assert all(self.receiver.ledger.state(b) is not BlockState.FREE for b in handoff.blocks)
            assert not self.being_written().intersection(handoff.blocks)
            assert len(handoff.blocks) == -(-handoff.num_tokens // 4)
        if take:
            reservations.finish_handoff(RequestId(request), prompt)
        else:
            reservations.release(RequestId(request))

    @rule(num_blocks=st.integers(1, 8))
    def need_room(self, num_blocks: int) -> None:
        try:
            self.local.append(self.receiver.ledger.allocate(num_blocks, tier=Tier.DRAM, owner="local"))
        except PoolExhausted:
            if self.local:
                self.receiver.ledger.free(self.local.pop())

    @rule(num_blocks=st.integers(1, 3))
    def peer_allocates(self, num_blocks: int) -> None:
        with contextlib.suppress(PoolExhausted):
            self.receiver.sessions.copies.allocate(
                AllocRequest(
                    num_blocks=num_blocks,
                    tier=Tier.DRAM,
                    owner=SENDER,
                    incarnation=Incarnation(self.life),
                    ttl_s=TTL_S,
                )
            )

    def being_written(self) -> set[BlockId]:
        return {block for _, blocks in self.writing.values() for block in blocks}

    @invariant()
    def books_balance(self) -> None:
        self.receiver.ledger.check()

    @invariant()
    def nothing_is_found_that_was_not_committed(self) -> None:
        for prompt in PROMPTS:
            num_found = self.receiver.num_matched(prompt)
            assert not num_found or any(done[: num_found * 4] == prompt[: num_found * 4] for done in self.published), (
                f"{num_found} tokens found"
            )

    @invariant()
    def room_of_a_writing_sender_is_nobody_elses(self) -> None:
        rooms = [block for _, blocks in self.writing.values() for block in blocks]
        assert len(rooms) == len(set(rooms))
        assert all(self.receiver.ledger.state(block) is BlockState.ACTIVE for block in rooms)
        taken = {block for blocks in self.local for block in blocks}
        assert not taken.intersection(rooms)

    def teardown(self) -> None:
        while self.copying:
            self.end_copy(works=False)
        for blocks in self.local:
            self.receiver.ledger.free(blocks)
        self.receiver.clock.advance(10 * TTL_S)
        self.receiver.sessions.expire()
        self.receiver.ledger.check()
        assert self.receiver.is_empty(), self.receiver.sessions


TestLossyTransfers = LossyTransfers.TestCase
TestLossyTransfers.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
