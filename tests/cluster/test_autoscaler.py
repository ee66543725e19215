"""When a cluster grows, shrinks and shifts: from made-up levels, on a clock that tests move."""

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memserve.cluster.autoscaler import Autoscaler, AutoscaleRules, Bounds, Observation, Resize, Shift, Verdict
from memserve.cluster.service_levels import Levels, Targets
from memserve.cluster.sizing import for_answers, for_prompts
from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.clock import ManualClock
from memserve.core.enums import SERVING_ROLES, Role
from memserve.core.errors import ConfigError
from memserve.core.ids import Incarnation, InstanceId
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import Load, PeerInfo

TARGETS = Targets(ttft_s=2.0, tpot_s=0.1, share=0.9)
IDENTITY = KvIdentity(model="m", dtype="f", engine="e", backend="b", block_size=32, block_bytes=64, num_layers=1)
IDLE = Levels(num_requests=20, ttft_s=0.2, num_answers=20, tpot_s=0.02, fastest_tpot_s=0.02, num_prompts=0.1)
FINE = msgspec.structs.replace(IDLE, ttft_s=1.5, num_prompts=1.2)
LATE = msgspec.structs.replace(IDLE, ttft_s=6.0, num_prompts=4.0)
SLOW = msgspec.structs.replace(IDLE, tpot_s=0.3)


def instance(name: str, role: Role, state: InstanceState = InstanceState.ACTIVE, *, running: int = 0) -> InstanceView:
    peer = PeerInfo(instance=InstanceId(name), incarnation=Incarnation(1), endpoint="tcp://x", identity=IDENTITY)
    return InstanceView(
        peer=peer, role=role, url="", state=state, load=Load(num_running=running), can_play=SERVING_ROLES
    )


def view(**numbers: int) -> ClusterView:
    return ClusterView(
        instances=tuple(instance(f"{r}-{n}", Role(r)) for r, count in numbers.items() for n in range(count))
    )


class Played:
    """An autoscaler that looks every ten seconds."""

    def __init__(self, bounds: Mapping[str, tuple[int, int]]) -> None:
        self.clock = ManualClock(1000.0)
        rules = AutoscaleRules(
            targets=TARGETS, bounds={Role(r): Bounds(least=a, most=b) for r, (a, b) in bounds.items()}
        )
        self.autoscaler = Autoscaler(rules, clock=self.clock)

    def look(self, seen: ClusterView, levels: Levels, **starting: int) -> Verdict:
        self.clock.advance(10.0)
        coming = {Role(role): number for role, number in starting.items()}
        return self.autoscaler.decide(Observation(view=seen, levels=levels, starting=coming))

    def first_change(self, seen: ClusterView, levels: Levels, *, within: int = 100) -> tuple[int, Verdict]:
        """Number of looks until something is to be changed, and what."""
        for number in range(1, within):
            verdict = self.look(seen, levels)
            if verdict.changes:
                return number, verdict
        return within, verdict


def test_late_first_tokens_make_it_grow_at_the_second_look_with_the_numbers_in_words() -> None:
    number, verdict = Played({"colocated": (1, 8)}).first_change(view(colocated=2), LATE)
    (change,) = verdict.changes
    assert number == 2
    assert isinstance(change, Resize)
    assert (change.before, change.after) == (2, 3)
    assert "6.00 s (target 2 s)" in change.why


def test_slow_tokens_make_decode_instances_grow_and_leave_prefill_alone() -> None:
    _, verdict = Played({"prefill": (1, 4), "decode": (1, 4)}).first_change(view(prefill=1, decode=1), SLOW)
    assert [(c.role, c.after) for c in verdict.changes if isinstance(c, Resize)] == [(Role.DECODE, 2)]


def test_between_growing_and_shrinking_nothing_changes() -> None:
    played = Played({"colocated": (1, 8)})
    assert all(not played.look(view(colocated=2), FINE).changes for _ in range(100))


def test_it_shrinks_one_at_a_time_and_only_after_a_calm_while() -> None:
    number, verdict = Played({"colocated": (1, 8)}).first_change(view(colocated=4), IDLE)
    (change,) = verdict.changes
    assert number > 30
    assert isinstance(change, Resize)
    assert (change.before, change.after) == (4, 3)


def test_one_busy_look_in_the_calm_while_keeps_it_from_shrinking() -> None:
    played = Played({"colocated": (1, 8)})
    for number in range(60):
        levels = LATE if number % 25 == 0 else IDLE
        assert not played.look(view(colocated=4), levels).changes


def test_one_that_is_starting_is_not_asked_for_again() -> None:
    played = Played({"colocated": (1, 8)})
    assert all(not played.look(view(colocated=2), LATE, colocated=1).changes for _ in range(20))


def test_nothing_shrinks_while_one_is_starting_however_long_that_takes() -> None:
    played = Played({"colocated": (1, 8)})
    assert all(not played.look(view(colocated=1), IDLE, colocated=1).changes for _ in range(100))
    _, verdict = played.first_change(view(colocated=2), IDLE)
    assert [(c.before, c.after) for c in verdict.changes if isinstance(c, Resize)] == [(2, 1)]


def test_a_role_does_not_turn_round_before_the_cool_down_is_over() -> None:
    played = Played({"colocated": (1, 8)})
    _, verdict = played.first_change(view(colocated=2), LATE)
    played.autoscaler.changed(verdict.changes[0])
    number, _ = played.first_change(view(colocated=3), IDLE)
    assert number >= 30


def test_bounds_are_kept_and_too_few_are_made_up_for_at_once() -> None:
    number, verdict = Played({"colocated": (2, 8)}).first_change(view(colocated=1), Levels())
    assert (number, [c.after for c in verdict.changes if isinstance(c, Resize)]) == (1, [2])
    full = Played({"colocated": (1, 2)})
    assert all(not full.look(view(colocated=2), LATE).changes for _ in range(20))


def test_an_instance_that_one_role_can_spare_goes_to_the_one_that_lacks_it() -> None:
    spare = (instance("decode-0", Role.DECODE, running=3), instance("decode-1", Role.DECODE))
    seen = ClusterView(instances=(instance("prefill-0", Role.PREFILL), *spare))
    _, verdict = Played({"prefill": (1, 4), "decode": (1, 4)}).first_change(seen, LATE)
    (change,) = verdict.changes
    assert isinstance(change, Shift)
    assert (change.instance, change.before, change.after) == ("decode-1", Role.DECODE, Role.PREFILL)


def test_the_last_one_of_a_role_is_not_taken_from_it() -> None:
    _, verdict = Played({"prefill": (1, 4), "decode": (1, 4)}).first_change(view(prefill=1, decode=1), LATE)
    assert all(isinstance(change, Resize) for change in verdict.changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"targets": msgspec.structs.replace(TARGETS, ttft_s=0.0)}, "the TTFT target is 0 s: give a time above 0"),
        ({"targets": msgspec.structs.replace(TARGETS, tpot_s=float("nan"))}, "the TPOT target is nan s"),
        ({"targets": msgspec.structs.replace(TARGETS, share=1.0)}, "give a share between 0 and 1"),
        ({"bounds": {Role.PREFILL: Bounds(least=4, most=2)}}, "prefill=4:2: the least is at least 1, and not above"),
        ({"bounds": {Role.DECODE: Bounds(least=0, most=2)}}, "decode=0:2: the least is at least 1"),
        ({"bounds": {Role.MEMORY: Bounds(least=1, most=2)}}, "memory instances serve no requests"),
        ({"bounds": {}}, "no roles to change"),
        ({"cool_down_s": -1.0}, "a cool-down of -1 s"),
    ],
)
def test_rules_that_nobody_can_follow_are_refused_with_the_numbers(change: dict[str, object], says: str) -> None:
    rules = AutoscaleRules(targets=TARGETS, bounds={Role.COLOCATED: Bounds(least=1, most=2)})
    with pytest.raises(ConfigError, match=says):
        Autoscaler(msgspec.structs.replace(rules, **change), clock=ManualClock())


@settings(max_examples=200, deadline=None)
@given(
    ttft_s=st.floats(0.0, 100.0),
    tpot_s=st.floats(0.0, 5.0),
    prompts=st.floats(0.0, 500.0),
    number=st.integers(1, 40),
)
def test_the_number_to_grow_to_is_never_above_the_number_to_shrink_to(
    ttft_s: float, tpot_s: float, prompts: float, number: int
) -> None:
    levels = Levels(
        num_requests=9, ttft_s=ttft_s, num_answers=9, tpot_s=tpot_s, fastest_tpot_s=tpot_s / 3, num_prompts=prompts
    )
    for need in (for_prompts(levels, TARGETS, number), for_answers(levels, TARGETS, number)):
        assert 0 <= need.at_least <= need.at_most <= 2 * number
