"""The engine path at the receiver: reserve, commit, hand over; and every way in which it ends otherwise."""

import pytest

from memserve.core.errors import InvalidTokens, PoolExhausted, ProtocolError, TransferFailed
from memserve.core.ids import Incarnation, RequestId, TransferId
from memserve.transfer.handoff import HandoffState
from memserve.transfer.record import peer_owner
from memserve.transfer.reservations import UNCLAIMED_S
from tests.transfer.parts import LIFE, OWNER, SENDER, TTL_S, Receiver, commit, reserve, tokens

R1 = RequestId("r1")
T1 = TransferId("t1")


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def test_a_reservation_has_room_for_whole_blocks_and_the_tail(receiver: Receiver) -> None:
    reply = receiver.sessions.reservations.reserve(reserve(data=tokens(10)))
    assert (reply.num_held_blocks, len(reply.blocks)) == (0, 3)


def test_without_a_tail_only_whole_blocks_are_reserved(receiver: Receiver) -> None:
    assert len(receiver.sessions.reservations.reserve(reserve(data=tokens(10), tail=False)).blocks) == 2


def test_nothing_is_visible_before_the_commit(receiver: Receiver) -> None:
    data = tokens(10)
    receiver.sessions.reservations.reserve(reserve(data=data))
    handoff = receiver.sessions.reservations.handoff(R1, data)
    assert (handoff.state, handoff.blocks, handoff.num_tokens) == (HandoffState.PENDING, (), 10)
    assert receiver.num_matched(data) == 0


def test_a_commit_hands_over_all_tokens_and_indexes_the_whole_blocks(receiver: Receiver) -> None:
    data = tokens(10)
    reply = receiver.sessions.reservations.reserve(reserve(data=data))
    receiver.sessions.reservations.commit(commit(num_blocks=3), OWNER)
    handoff = receiver.sessions.reservations.handoff(R1, data)
    assert (handoff.state, handoff.blocks, handoff.num_tokens) == (HandoffState.READY, reply.blocks, 10)
    assert receiver.num_matched(data) == 8


def test_a_commit_without_insert_hands_over_and_indexes_nothing(receiver: Receiver) -> None:
    data = tokens(10)
    receiver.sessions.reservations.reserve(reserve(data=data))
    receiver.sessions.reservations.commit(commit(num_blocks=3, insert=False), OWNER)
    assert receiver.sessions.reservations.handoff(R1, data).num_tokens == 10
    assert receiver.num_matched(data) == 0
    receiver.sessions.reservations.finish_handoff(R1, data)
    assert receiver.is_empty()


def test_without_handoff_only_the_index_names_the_blocks(receiver: Receiver) -> None:
    data = tokens(8)
    receiver.sessions.reservations.reserve(reserve(data=data, handoff=False))
    receiver.sessions.reservations.commit(commit(num_blocks=2), OWNER)
    assert receiver.sessions.reservations.handoff(R1, data).state is HandoffState.ABSENT
    assert receiver.is_empty()
    assert receiver.num_matched(data) == 8


def test_what_the_index_holds_is_leased_and_not_sent_again(receiver: Receiver) -> None:
    first = receiver.sessions.reservations.reserve(reserve(data=tokens(8), handoff=False))
    receiver.sessions.reservations.commit(commit(num_blocks=2), OWNER)
    reply = receiver.sessions.reservations.reserve(reserve("t2", data=tokens(14)))
    assert (reply.num_held_blocks, len(reply.blocks)) == (2, 2)
    receiver.sessions.reservations.commit(commit("t2", num_blocks=2), OWNER)
    handoff = receiver.sessions.reservations.handoff(R1, tokens(14))
    assert handoff.blocks == first.blocks + reply.blocks
    assert handoff.num_tokens == 14


def test_without_reuse_the_whole_prompt_is_reserved_and_the_earlier_copy_wins(receiver: Receiver) -> None:
    first = receiver.sessions.reservations.reserve(reserve(data=tokens(8), handoff=False))
    receiver.sessions.reservations.commit(commit(num_blocks=2), OWNER)
    reply = receiver.sessions.reservations.reserve(reserve("t2", data=tokens(8), reuse=False))
    assert (reply.num_held_blocks, len(reply.blocks)) == (0, 2)
    receiver.sessions.reservations.commit(commit("t2", num_blocks=2), OWNER)
    assert receiver.sessions.reservations.handoff(R1, tokens(8)).blocks == first.blocks
    assert receiver.num_reserved == 0


def test_two_senders_of_the_same_prompt_both_commit_and_one_copy_stays(receiver: Receiver) -> None:
    data = tokens(8)
    for name in ("t1", "t2"):
        receiver.sessions.reservations.reserve(reserve(name, data=data, handoff=False))
    for name in ("t1", "t2"):
        receiver.sessions.reservations.commit(commit(name, num_blocks=2), OWNER)
    assert (receiver.num_cached, receiver.is_empty()) == (2, True)


def test_repeating_any_message_changes_nothing(receiver: Receiver) -> None:
    data = tokens(10)
    once = receiver.sessions.reservations.reserve(reserve(data=data))
    assert receiver.sessions.reservations.reserve(reserve(data=data)) == once
    for _ in range(2):
        receiver.sessions.reservations.commit(commit(num_blocks=3), OWNER)
    ready = receiver.sessions.reservations.handoff(R1, data)
    receiver.sessions.reservations.abort(T1, OWNER)
    assert receiver.sessions.reservations.handoff(R1, data) == ready
    for _ in range(2):
        receiver.sessions.reservations.finish_handoff(R1, data)
    receiver.sessions.reservations.commit(commit(num_blocks=3), OWNER)
    assert receiver.is_empty()


def test_a_handoff_is_for_exactly_its_tokens(receiver: Receiver) -> None:
    for name, data in (("t1", tokens(10)), ("t2", tokens(10, first=50))):
        receiver.sessions.reservations.reserve(reserve(name, data=data))
        receiver.sessions.reservations.commit(commit(name, num_blocks=3), OWNER)
    one = receiver.sessions.reservations.handoff(R1, tokens(10))
    two = receiver.sessions.reservations.handoff(R1, tokens(10, first=50))
    assert one.blocks != two.blocks
    assert receiver.sessions.reservations.handoff(R1, tokens(9)).state is HandoffState.ABSENT
    receiver.sessions.reservations.finish_handoff(R1, tokens(10))
    assert receiver.sessions.reservations.handoff(R1, tokens(10, first=50)) == two


def test_a_commit_of_fewer_blocks_than_reserved_is_refused_and_abort_frees_them(receiver: Receiver) -> None:
    receiver.sessions.reservations.reserve(reserve(data=tokens(10)))
    with pytest.raises(TransferFailed, match="reserved 3 blocks but 2"):
        receiver.sessions.reservations.commit(commit(num_blocks=2), OWNER)
    receiver.sessions.reservations.abort(T1, OWNER)
    assert receiver.is_empty()
    with pytest.raises(TransferFailed, match="aborted"):
        receiver.sessions.reservations.commit(commit(num_blocks=3), OWNER)


def test_an_abort_that_overtakes_its_reserve_wins(receiver: Receiver) -> None:
    receiver.sessions.reservations.abort(T1, OWNER)
    with pytest.raises(TransferFailed, match="aborted"):
        receiver.sessions.reservations.reserve(reserve(data=tokens(8)))
    assert receiver.is_empty()


def test_a_transfer_that_nobody_knows_cannot_be_committed(receiver: Receiver) -> None:
    with pytest.raises(TransferFailed, match="not known"):
        receiver.sessions.reservations.commit(commit(num_blocks=1), OWNER)


def test_another_peer_cannot_commit_or_abort(receiver: Receiver) -> None:
    receiver.sessions.reservations.reserve(reserve(data=tokens(8)))
    with pytest.raises(TransferFailed, match="not one of q/1"):
        receiver.sessions.reservations.commit(commit(num_blocks=2), "q/1")
    with pytest.raises(TransferFailed, match="not one of q/1"):
        receiver.sessions.reservations.abort(T1, "q/1")


def test_a_worker_that_is_nobodys_peer_commits_by_the_id_alone(receiver: Receiver) -> None:
    receiver.sessions.reservations.reserve(reserve(data=tokens(8), handoff=False))
    receiver.sessions.reservations.commit(commit(num_blocks=2), None)
    assert receiver.num_matched(tokens(8)) == 8


def test_blocks_are_not_reused_while_a_sender_in_its_time_may_still_write(receiver: Receiver) -> None:
    receiver.sessions.reservations.reserve(reserve(data=tokens(10)))
    receiver.clock.advance(TTL_S * 1.5)
    assert receiver.sessions.expire() == 0
    receiver.clock.advance(TTL_S * 0.5)
    assert receiver.sessions.expire() == 1
    assert receiver.is_empty()
    with pytest.raises(TransferFailed, match="expired"):
        receiver.sessions.reservations.commit(commit(num_blocks=3), OWNER)


def test_a_handoff_that_nobody_takes_expires_and_its_whole_blocks_stay_cached(receiver: Receiver) -> None:
    receiver.sessions.reservations.reserve(reserve(data=tokens(10)))
    receiver.sessions.reservations.commit(commit(num_blocks=3), OWNER)
    receiver.clock.advance(TTL_S)
    assert receiver.sessions.expire() == 1
    assert receiver.is_empty()
    assert receiver.num_matched(tokens(10)) == 8


def test_what_is_handed_over_for_a_request_that_never_comes_goes_soon_and_waits_for_one_that_has_come() -> None:
    for has_come, is_kept in ((False, False), (True, True)):
        receiver, data = Receiver(), tokens(10)
        receiver.sessions.reservations.reserve(reserve(data=data, ttl_s=600.0))
        receiver.sessions.reservations.commit(commit(num_blocks=3), OWNER)
        if has_come:
            receiver.sessions.reservations.claim(R1)
        receiver.clock.advance(UNCLAIMED_S)
        receiver.sessions.expire()
        assert (receiver.sessions.stats().num_handoffs == 1) is is_kept


def test_a_released_request_gives_back_at_once_what_is_whole(receiver: Receiver) -> None:
    receiver.sessions.reservations.reserve(reserve(data=tokens(10)))
    receiver.sessions.reservations.commit(commit(num_blocks=3), OWNER)
    receiver.sessions.reservations.release(R1)
    receiver.sessions.reservations.release(R1)
    assert receiver.is_empty()


def test_a_request_released_while_its_blocks_are_written_is_cleared_at_the_commit(receiver: Receiver) -> None:
    receiver.sessions.reservations.reserve(reserve(data=tokens(10)))
    receiver.sessions.reservations.release(R1)
    assert receiver.num_reserved == 3
    receiver.sessions.reservations.commit(commit(num_blocks=3), OWNER)
    assert receiver.is_empty()
    assert receiver.num_matched(tokens(10)) == 8


def test_a_dead_senders_reservation_is_freed_at_once_and_what_it_committed_stays(receiver: Receiver) -> None:
    receiver.sessions.reservations.reserve(reserve("t1", data=tokens(10)))
    receiver.sessions.reservations.commit(commit("t1", num_blocks=3), OWNER)
    receiver.sessions.reservations.reserve(reserve("t2", data=tokens(10, first=50)))
    receiver.sessions.peer_left(SENDER, LIFE, process_gone=True)
    assert receiver.sessions.reservations.handoff(R1, tokens(10)).state is HandoffState.READY
    assert receiver.sessions.reservations.handoff(R1, tokens(10, first=50)).state is HandoffState.ABSENT
    receiver.sessions.reservations.finish_handoff(R1, tokens(10))
    assert receiver.is_empty()


def test_blocks_of_a_sender_that_may_still_run_wait_for_their_expiry(receiver: Receiver) -> None:
    receiver.sessions.reservations.reserve(reserve(data=tokens(10)))
    receiver.sessions.peer_left(SENDER, LIFE, process_gone=False)
    assert receiver.num_reserved == 3
    receiver.clock.advance(2 * TTL_S)
    receiver.sessions.expire()
    assert receiver.is_empty()


def test_another_life_of_the_sender_is_untouched_by_the_end_of_one(receiver: Receiver) -> None:
    later = Incarnation(2)
    receiver.sessions.reservations.reserve(reserve("t1", data=tokens(8)))
    receiver.sessions.reservations.reserve(reserve("t2", data=tokens(8, first=50), incarnation=later))
    receiver.sessions.peer_left(SENDER, LIFE, process_gone=True)
    receiver.sessions.reservations.commit(commit("t2", num_blocks=2), peer_owner(SENDER, later))
    assert receiver.num_matched(tokens(8, first=50)) == 8


def test_a_reservation_that_finds_no_room_leaves_no_trace(receiver: Receiver) -> None:
    receiver.sessions.reservations.reserve(reserve("t1", data=tokens(8), handoff=False))
    receiver.sessions.reservations.commit(commit("t1", num_blocks=2), OWNER)
    with pytest.raises(PoolExhausted):
        receiver.sessions.reservations.reserve(reserve("t2", data=tokens(4 * 40)))
    assert receiver.is_empty()
    assert receiver.num_cached == 2


def test_ids_that_are_too_long_to_remember_are_refused(receiver: Receiver) -> None:
    for name, request in (("x" * 257, "r"), ("t", "x" * 257)):
        with pytest.raises(ProtocolError, match="257"):
            receiver.sessions.reservations.reserve(reserve(name, data=tokens(4), request=request))
    with pytest.raises(ProtocolError, match="257"):
        receiver.sessions.reservations.abort(TransferId("x" * 257), OWNER)
    assert receiver.is_empty()


def test_the_number_of_open_transfers_is_bounded() -> None:
    receiver = Receiver(max_open=2)
    for n in range(2):
        receiver.sessions.reservations.reserve(reserve(f"t{n}", data=tokens(4)))
    with pytest.raises(PoolExhausted, match="2 transfers are open"):
        receiver.sessions.reservations.reserve(reserve("t2", data=tokens(4)))


@pytest.mark.parametrize("data", [b"", b"abc", b"\x00" * 7, b"\xff\xff\xff\xff"])
def test_tokens_that_are_none_cannot_be_reserved_for(receiver: Receiver, data: bytes) -> None:
    with pytest.raises(InvalidTokens):
        receiver.sessions.reservations.reserve(reserve(data=data))
    assert receiver.is_empty()


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_reservation_cannot_last_for_ever(receiver: Receiver, ttl_s: float) -> None:
    with pytest.raises(ProtocolError, match="ttl_s"):
        receiver.sessions.reservations.reserve(reserve(data=tokens(4), ttl_s=ttl_s))


def test_what_several_ranks_write_is_visible_when_the_last_has_committed(receiver: Receiver) -> None:
    data = tokens(10)
    receiver.sessions.reservations.reserve(reserve(data=data))
    for rank in (1, 1, 0):
        receiver.sessions.reservations.commit(commit(num_blocks=3, rank=rank, num_ranks=3), OWNER)
        assert receiver.sessions.reservations.handoff(R1, data).state is HandoffState.PENDING
        assert receiver.num_matched(data) == 0
    receiver.sessions.reservations.commit(commit(num_blocks=3, rank=2, num_ranks=3), OWNER)
    assert receiver.sessions.reservations.handoff(R1, data).state is HandoffState.READY


def test_a_rank_that_cannot_exist_publishes_nothing(receiver: Receiver) -> None:
    receiver.sessions.reservations.reserve(reserve(data=tokens(10)))
    with pytest.raises(TransferFailed, match="rank 2 of 2 does not exist"):
        receiver.sessions.reservations.commit(commit(num_blocks=3, rank=2, num_ranks=2), OWNER)
