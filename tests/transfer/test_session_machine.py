"""Transfer sessions over a channel that loses, repeats and reorders, with deaths, time and pressure between.

After every step: the ledger's books balance; nothing is matched that was not committed; and the room of a
sender that may still be writing belongs to nobody else.
"""

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memserve.core.enums import Tier
from memserve.core.errors import InvalidBlocks, PoolExhausted, TransferFailed
from memserve.core.ids import BlockId, Incarnation, RequestId, TransferId
from memserve.pool.block import BlockState
from memserve.transfer.handoff import HandoffState
from memserve.transfer.record import peer_owner
from memserve.wire.messages import AllocRequest, CommitRequest, ReserveRequest, TransferRequest
from tests.transfer.parts import LIFE, SENDER, TTL_S, Receiver, commit, reserve, tokens, transfer

PROMPTS = (tokens(10), tokens(18), tokens(8, first=100))
INDICES = st.integers(0, 19)
REFUSALS = (TransferFailed, PoolExhausted, InvalidBlocks)
"""What a peer may be told; a bug of ours is none of them."""
FATES = st.sampled_from(["now", "now", "now", "twice", "later", "now and later", "lost"])
Parcel = tuple[str, int, float, object]
"""What is asked, by which life of the sender, when it was sent, and the message."""


class LossyTransfers(RuleBasedStateMachine):
    """The model: what was sent, what may be being written, what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.receiver = Receiver()
        self.life = int(LIFE)
        self.network: list[Parcel] = []
        self.writing: dict[TransferId, tuple[float, tuple[BlockId, ...]]] = {}
        self.names: list[TransferId] = []
        self.given_up: set[TransferId] = set()
        self.published: set[bytes] = set()
        self.copying: dict[TransferId, tuple[str, bytes | None]] = {}
        self.local: list[tuple[BlockId, ...]] = []

    def post(self, fate: str, kind: str, message: object) -> None:
        """What the channel makes of a message."""
        parcel = (kind, self.life, self.receiver.clock.now(), message)
        for _ in range({"now": 1, "twice": 2, "now and later": 1}.get(fate, 0)):
            self.hand_over(parcel)
        if fate in ("later", "now and later"):
            self.network.append(parcel)

    def hand_over(self, parcel: Parcel) -> None:
        if parcel[1] == self.life:  # the agent has closed the connection of an earlier life
            with contextlib.suppress(*REFUSALS):
                self.handle(parcel)

    def new_name(self, kind: int) -> TransferId:
        self.names.append(TransferId(f"p/{self.life}/{len(self.names)}/{kind}"))
        return self.names[-1]

    @rule(kind=st.integers(0, 11), request=st.sampled_from(["r1", "r2"]), fate=FATES)
    def send_reserve(self, kind: int, request: str, fate: str) -> None:
        asked = reserve(
            self.new_name(kind),
            data=PROMPTS[kind % 3],
            request=request,
            reuse=kind % 2 == 0,
            tail=kind != 4,
            handoff=kind % 4 != 1,
            incarnation=Incarnation(self.life),
        )
        self.post(fate, "reserve", asked)

    @precondition(lambda self: self.writing)
    @rule(index=INDICES, insert=st.booleans(), fate=FATES)
    def send_commit(self, index: int, insert: bool, fate: str) -> None:
        name = sorted(self.writing)[index % len(self.writing)]
        _, blocks = self.writing.pop(name)
        self.given_up.add(name)
        self.post(fate, "commit", commit(name, num_blocks=len(blocks), insert=insert))

    @precondition(lambda self: self.names)
    @rule(index=INDICES, fate=FATES)
    def send_abort(self, index: int, fate: str) -> None:
        name = self.names[-1 - index % min(4, len(self.names))]
        self.writing.pop(name, None)
        self.given_up.add(name)
        self.post(fate, "abort", name)

    @precondition(lambda self: len(self.copying) < 2)
    @rule(insert=st.booleans(), fate=FATES)
    def send_transfer(self, insert: bool, fate: str) -> None:
        self.post(
            fate,
            "transfer",
            transfer(self.new_name(2), data=PROMPTS[2] if insert else None, incarnation=Incarnation(self.life)),
        )

    @precondition(lambda self: self.network)
    @rule(index=INDICES, repeat=st.booleans())
    def deliver_late(self, index: int, repeat: bool) -> None:
        index %= len(self.network)
        self.hand_over(self.network[index] if repeat else self.network.pop(index))

    def handle(self, parcel: Parcel) -> None:
        kind, life, sent_at, message = parcel
        sender = peer_owner(SENDER, Incarnation(life))
        sessions = self.receiver.sessions
        if kind == "reserve" and isinstance(message, ReserveRequest):
            reply = sessions.reservations.reserve(message)
            writes_until = sent_at + TTL_S
            if message.transfer not in self.given_up and writes_until > self.receiver.clock.now():
                self.writing.setdefault(message.transfer, (writes_until, reply.blocks))
        elif kind == "commit" and isinstance(message, CommitRequest):
            data = PROMPTS[int(message.transfer.rsplit("/", 1)[1]) % 3]
            sessions.reservations.commit(message, sender)
            if message.insert:
                self.published.add(data)
        elif kind == "abort":
            sessions.reservations.abort(TransferId(str(message)), sender)
        elif isinstance(message, TransferRequest) and sessions.copies.repeated(message) is None:
            sessions.copies.begin(message)
            self.copying[message.transfer] = (sender, message.tokens)

    @precondition(lambda self: self.copying)
    @rule(works=st.booleans())
    def end_copy(self, works: bool) -> None:
        name, (sender, data) = self.copying.popitem()
        if not works:
            self.receiver.sessions.copies.fail(name, sender)
            return
        try:
            self.receiver.sessions.copies.complete(name, sender)
        except REFUSALS:
            return
        if data is not None:
            self.published.add(data)

    @rule(lives=st.sampled_from([0.05, 0.3, 0.6, 1.1, 2.1]))
    def pass_time(self, lives: float) -> None:
        self.receiver.clock.advance(lives * TTL_S)
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
