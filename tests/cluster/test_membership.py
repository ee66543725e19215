"""Membership: single rules, then all of them at once against a plain list of facts."""

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memserve.cluster.events import (
    Cause,
    DrainAsked,
    Effect,
    HeartbeatReceived,
    InstanceDied,
    InstanceJoined,
    InstanceReady,
    LeaveReceived,
    ProcessExited,
    RequestFailed,
    RoleAsked,
    Tick,
    ViewChanged,
)
from memserve.cluster.membership import Membership
from memserve.cluster.view import InstanceState
from memserve.core.clock import ManualClock
from memserve.core.enums import SERVING_ROLES, Role
from memserve.core.errors import ConfigError, IdentityMismatch, InstanceUnavailable, LeaseLost
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import DeadInstance, Load, PeerInfo

SUSPECT_S, DEAD_S = 5.0, 20.0
A, B = InstanceId("a"), InstanceId("b")
IDENTITY = KvIdentity(
    model="m", dtype="float32", engine="vllm-0.32.0", backend="cpu", block_size=32, block_bytes=64, num_layers=2
)
ACTIVE, JOINING, SUSPECT = InstanceState.ACTIVE, InstanceState.JOINING, InstanceState.SUSPECT
DRAINING = InstanceState.DRAINING
ENGINE_ROLES = (Role.PREFILL, Role.DECODE, Role.COLOCATED)


class Cluster:
    """A membership with its clock, driven by short calls."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.membership = Membership(clock=self.clock, suspect_s=SUSPECT_S, dead_s=DEAD_S)

    def join(
        self,
        name: InstanceId,
        incarnation: int = 1,
        identity: KvIdentity = IDENTITY,
        role: Role = Role.COLOCATED,
        can_play: tuple[Role, ...] = ENGINE_ROLES,
    ) -> tuple[Effect, ...]:
        peer = PeerInfo(instance=name, incarnation=Incarnation(incarnation), endpoint="tcp://x:1", identity=identity)
        return self.membership.handle(InstanceJoined(peer=peer, role=role, url="http://x", can_play=can_play))

    def ready(self, name: InstanceId, incarnation: int = 1) -> tuple[Effect, ...]:
        return self.membership.handle(InstanceReady(instance=name, incarnation=Incarnation(incarnation)))

    def beat(self, name: InstanceId, incarnation: int = 1, load: Load | None = None) -> tuple[Effect, ...]:
        return self.membership.handle(
            HeartbeatReceived(instance=name, incarnation=Incarnation(incarnation), load=load or Load())
        )

    def fail(self, name: InstanceId, incarnation: int = 1) -> tuple[Effect, ...]:
        return self.membership.handle(RequestFailed(instance=name, incarnation=Incarnation(incarnation)))

    def leave(self, name: InstanceId, incarnation: int = 1) -> tuple[Effect, ...]:
        return self.membership.handle(LeaveReceived(instance=name, incarnation=Incarnation(incarnation)))

    def drain(self, name: InstanceId) -> tuple[Effect, ...]:
        return self.membership.handle(DrainAsked(instance=name))

    def become(self, name: InstanceId, role: Role) -> tuple[Effect, ...]:
        return self.membership.handle(RoleAsked(instance=name, role=role))

    def exit(self, name: InstanceId) -> tuple[Effect, ...]:
        return self.membership.handle(ProcessExited(instance=name, why="exit code 1"))

    def wait(self, seconds: float) -> tuple[Effect, ...]:
        self.clock.advance(seconds)
        return self.membership.handle(Tick())

    def states(self) -> dict[str, InstanceState]:
        return {i.instance: i.state for i in self.membership.view.instances}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def active(cluster: Cluster) -> Cluster:
    cluster.join(A)
    cluster.ready(A)
    return cluster


def test_a_joined_instance_gets_no_requests_before_its_server_answers(cluster: Cluster) -> None:
    cluster.join(A)
    assert cluster.membership.view.active() == ()
    cluster.ready(A)
    assert [i.instance for i in cluster.membership.view.active()] == [A]


def test_a_silent_instance_becomes_suspect_and_comes_back_with_its_heartbeat(active: Cluster) -> None:
    active.wait(SUSPECT_S + 1)
    assert active.states() == {A: SUSPECT}
    active.beat(A)
    assert active.states() == {A: ACTIVE}


def test_a_silent_instance_does_not_come_back_because_its_server_answers(active: Cluster) -> None:
    active.wait(SUSPECT_S + 1)
    active.ready(A)
    assert active.states() == {A: SUSPECT}


def test_a_late_heartbeat_within_the_allowance_changes_nothing(active: Cluster) -> None:
    assert active.wait(SUSPECT_S) == ()
    assert active.states() == {A: ACTIVE}


def test_a_long_silent_instance_is_reported_dead_with_the_seconds(active: Cluster) -> None:
    died, changed = active.wait(DEAD_S + 1)
    assert isinstance(died, InstanceDied)
    assert "silent for 21.0 s" in died.why
    assert isinstance(changed, ViewChanged)
    assert changed.view.instances == ()


def test_an_ended_process_is_dead_at_once(active: Cluster) -> None:
    died = active.exit(A)[0]
    assert died == InstanceDied(instance=A, incarnation=Incarnation(1), cause=Cause.EXITED, why="exit code 1")


def test_a_life_that_was_taken_for_dead_may_not_go_on_but_the_next_one_may(active: Cluster) -> None:
    active.wait(21)
    with pytest.raises(LeaseLost, match=f"{A} was not heard of for so long that it is taken for dead"):
        active.join(A, incarnation=1)
    active.join(A, incarnation=2)
    assert active.states() == {A: JOINING}


def test_an_instance_that_failed_a_request_gets_none_until_its_server_answers_again(active: Cluster) -> None:
    active.fail(A)
    active.beat(A)
    assert active.membership.view.active() == ()
    active.ready(A)
    assert active.states() == {A: ACTIVE}


def test_a_leaving_instance_is_reported_so_that_its_holds_are_freed(active: Cluster) -> None:
    died = active.leave(A)[0]
    assert died == InstanceDied(instance=A, incarnation=Incarnation(1), cause=Cause.LEFT, why="it left")


def test_a_new_incarnation_replaces_the_silent_old_one_and_reports_it_dead(active: Cluster) -> None:
    active.wait(SUSPECT_S + 1)
    died = active.join(A, 2)[0]
    assert isinstance(died, InstanceDied)
    assert (died.incarnation, died.cause) == (1, Cause.REPLACED)
    assert active.states() == {A: JOINING}


def test_a_second_process_under_a_name_that_is_alive_is_refused_and_the_first_one_serves_on(active: Cluster) -> None:
    active.wait(SUSPECT_S - 1)
    active.beat(A)
    before = active.membership.view
    with pytest.raises(ConfigError, match=r"another process is alive as a \(incarnation 1, heard of 0.0 s ago\)"):
        active.join(A, 2)
    assert active.membership.view == before
    active.leave(A)
    active.join(A, 2)
    assert active.states() == {A: JOINING}


@pytest.mark.parametrize("gone", [False, True])
def test_an_older_incarnation_is_refused_even_after_the_newer_one_left(cluster: Cluster, gone: bool) -> None:
    cluster.join(A, 2)
    if gone:
        cluster.exit(A)
    with pytest.raises(InstanceUnavailable, match="incarnation 1 of a is older than 2"):
        cluster.join(A, 1)


def test_a_repeated_join_changes_nothing(active: Cluster) -> None:
    assert active.join(A) == ()
    assert active.states() == {A: ACTIVE}


def test_an_instance_with_another_model_is_refused_and_leaves_no_trace(active: Cluster) -> None:
    before = active.membership.view
    other = msgspec.structs.replace(IDENTITY, model="other", dtype="float16")
    with pytest.raises(IdentityMismatch, match="model: 'other' here, 'm' there; dtype: 'float16' here"):
        active.join(B, identity=other)
    assert active.membership.view == before


def test_after_all_left_another_model_may_come(active: Cluster) -> None:
    active.leave(A)
    active.join(B, identity=msgspec.structs.replace(IDENTITY, model="other"))
    assert active.states() == {B: JOINING}


def test_a_heartbeat_with_another_load_is_seen_but_is_no_change_of_membership(active: Cluster) -> None:
    epoch = active.membership.view.epoch
    assert active.beat(A, load=Load(num_running=7)) == ()
    assert active.membership.view.instances[0].load.num_running == 7
    assert active.membership.view.epoch == epoch


def test_survivors_hear_of_those_that_died_since_the_view_they_have_seen(active: Cluster) -> None:
    active.join(B)
    before = active.membership.view.epoch
    active.exit(B)
    assert active.membership.dead_since(before) == (DeadInstance(instance=B, incarnation=Incarnation(1)),)
    assert active.membership.dead_since(active.membership.view.epoch) == ()


def test_the_first_view_of_an_incarnation_is_remembered_when_it_left_and_came_back(active: Cluster) -> None:
    first = active.membership.first_epoch(A)
    active.leave(A)
    active.join(A)
    assert active.membership.first_epoch(A) == first == 1
    active.leave(A)
    active.join(A, 2)
    assert active.membership.first_epoch(A) == active.membership.view.epoch


def test_one_that_came_back_is_no_longer_told_as_dead(cluster: Cluster) -> None:
    cluster.join(B)
    cluster.leave(B)
    cluster.join(B)
    assert cluster.membership.dead_since(Epoch(0)) == ()


def test_a_draining_instance_gets_no_new_requests_and_stays_known_until_it_leaves(active: Cluster) -> None:
    active.join(B)
    active.ready(B)
    active.drain(A)
    assert [i.instance for i in active.membership.view.active()] == [B]
    for tell in (active.beat, active.ready, active.fail):
        tell(A)
        assert active.states()[A] is DRAINING
    active.wait(SUSPECT_S + 1)
    assert active.states()[A] is DRAINING
    active.leave(A)
    assert A not in active.states()


@pytest.mark.parametrize("role", ENGINE_ROLES)
def test_the_last_active_instance_of_a_role_is_not_drained(cluster: Cluster, role: Role) -> None:
    cluster.join(A, role=role)
    cluster.ready(A)
    cluster.join(B, role=role)  # not active yet: it could not take over
    before = cluster.membership.view
    with pytest.raises(ConfigError, match=f"a is the last active {role} instance"):
        cluster.drain(A)
    assert cluster.membership.view == before
    cluster.ready(B)
    cluster.drain(A)
    assert cluster.states() == {A: DRAINING, B: ACTIVE}


def test_the_last_memory_instance_may_go(cluster: Cluster) -> None:
    cluster.join(A, role=Role.MEMORY, can_play=())
    cluster.ready(A)
    cluster.drain(A)
    assert cluster.states() == {A: DRAINING}


def test_who_is_not_there_is_neither_drained_nor_given_a_role(active: Cluster) -> None:
    with pytest.raises(ConfigError, match='no instance "b": known are a'):
        active.drain(B)
    with pytest.raises(ConfigError, match='no instance "b": known are a'):
        active.become(B, Role.DECODE)


def test_a_role_is_changed_at_once_and_told_as_a_change(active: Cluster) -> None:
    active.join(B)
    active.ready(B)
    (changed,) = active.become(A, Role.DECODE)
    assert isinstance(changed, ViewChanged)
    assert [i.instance for i in changed.view.active(Role.DECODE)] == [A]
    assert active.become(A, Role.DECODE) == ()


def test_a_role_that_the_engine_cannot_play_is_refused(active: Cluster) -> None:
    active.join(B, role=Role.MEMORY, can_play=())
    active.ready(B)
    before = active.membership.view
    with pytest.raises(ConfigError, match="b cannot become decode: its engine can play memory only"):
        active.become(B, Role.DECODE)
    with pytest.raises(ConfigError, match="a cannot become memory: its engine can play prefill, decode, colocated"):
        active.become(A, Role.MEMORY)
    assert active.membership.view == before


def test_the_last_of_a_role_keeps_it_unless_the_two_halves_remain(active: Cluster) -> None:
    with pytest.raises(ConfigError, match="a is the last active colocated instance"):
        active.become(A, Role.DECODE)
    active.join(B, role=Role.PREFILL)
    active.ready(B)
    active.become(A, Role.DECODE)
    with pytest.raises(ConfigError, match="b is the last active prefill instance"):
        active.become(B, Role.DECODE)


def test_the_last_of_a_role_may_become_flexible_and_do_that_and_more(cluster: Cluster) -> None:
    for name, role in ((A, Role.PREFILL), (B, Role.DECODE)):
        cluster.join(name, role=role, can_play=SERVING_ROLES)
        cluster.ready(name)
    cluster.become(B, Role.FLEXIBLE)
    assert [i.role for i in cluster.membership.view.instances] == [Role.PREFILL, Role.FLEXIBLE]


def test_a_draining_instance_takes_no_new_role(active: Cluster) -> None:
    active.join(B)
    active.ready(B)
    active.drain(A)
    with pytest.raises(ConfigError, match="a is draining"):
        active.become(A, Role.DECODE)


def test_times_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="suspect_s"):
        Membership(clock=ManualClock(), suspect_s=10, dead_s=5)


class MembershipAgainstFacts(RuleBasedStateMachine):
    """The oracle keeps the facts as a list and works the state out from the whole of it each time."""

    names = st.sampled_from([A, B])
    incarnations = st.sampled_from([1, 1, 1, 2])

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.facts: list[tuple[str, str, int, float]] = []
        self.alive: set[tuple[str, int]] = set()
        self.silenced: set[tuple[str, int]] = set()
        self.epoch = 0

    def note(self, kind: str, name: str, incarnation: int, effects: tuple[Effect, ...]) -> None:
        self.facts.append((kind, name, incarnation, self.cluster.clock.now()))
        for effect in effects:
            if isinstance(effect, InstanceDied):
                self.facts.append(("died", effect.instance, effect.incarnation, self.cluster.clock.now()))
                self.alive.remove((effect.instance, effect.incarnation))
                if effect.cause is Cause.SILENT:
                    self.silenced.add((effect.instance, effect.incarnation))

    @rule(name=names, incarnation=incarnations)
    def join(self, name: InstanceId, incarnation: int) -> None:
        newest = max((k for kind, n, k, _ in self.facts if n == name and kind == "joined"), default=0)
        if incarnation < newest:
            with pytest.raises(InstanceUnavailable):
                self.cluster.join(name, incarnation)
            return
        if (name, incarnation) in self.silenced:
            with pytest.raises(LeaseLost):
                self.cluster.join(name, incarnation)
            return
        now = self.cluster.clock.now()
        others = [one for one in self.alive if one[0] == name and one[1] != incarnation]
        if any(now - self.last("joined", "beat", of=one)[1] <= SUSPECT_S for one in others):
            with pytest.raises(ConfigError):
                self.cluster.join(name, incarnation)
            return
        effects = self.cluster.join(name, incarnation)
        self.note("joined" if (name, incarnation) not in self.alive else "beat", name, incarnation, effects)
        self.alive.add((name, incarnation))

    @rule(name=names, incarnation=incarnations, kind=st.sampled_from(["ready", "beat", "fail", "leave"]))
    def tell(self, name: InstanceId, incarnation: int, kind: str) -> None:
        self.tell_of(name, incarnation, kind)

    def tell_of(self, name: InstanceId, incarnation: int, kind: str) -> None:
        effects: tuple[Effect, ...] = getattr(self.cluster, kind)(name, incarnation)
        self.note(kind, name, incarnation, effects)
        assert kind != "leave" or (name, incarnation) not in self.alive

    @rule(name=names)
    def answer(self, name: InstanceId) -> None:
        """The server of whoever is there answers: often, so that it meets every state."""
        for one in [one for one in self.alive if one[0] == name]:
            self.tell_of(name, one[1], "ready")

    @rule(name=names)
    def exit(self, name: InstanceId) -> None:
        self.note("exit", name, 0, self.cluster.exit(name))
        assert all(alive != name for alive, _ in self.alive)

    @rule(name=names)
    def drain(self, name: InstanceId) -> None:
        alive = [one for one in self.alive if one[0] == name]
        active = [one for one in self.alive if self.expected(one) is ACTIVE]
        if not alive or active == alive:
            with pytest.raises(ConfigError):
                self.cluster.drain(name)
            return
        self.note("drain", name, alive[0][1], self.cluster.drain(name))

    @rule(seconds=st.sampled_from([0.5, 2.0, 4.0, 9.0]))
    def wait(self, seconds: float) -> None:
        self.note("tick", "", 0, self.cluster.wait(seconds))
        now = self.cluster.clock.now()
        assert all(now - self.last("joined", "beat", of=one)[1] <= DEAD_S for one in self.alive)

    def last(self, *kinds: str, of: tuple[str, int]) -> tuple[int, float]:
        """Position and time of the newest such fact about an incarnation."""
        found = [(i, at) for i, (kind, n, k, at) in enumerate(self.facts) if kind in kinds and (n, k) == of]
        return max(found, default=(-1, 0.0))

    def expected(self, one: tuple[str, int]) -> InstanceState:
        if self.last("drain", of=one)[0] > self.last("joined", of=one)[0]:
            return DRAINING
        doubted = self.last("joined", "fail", of=one)[0]
        proofs = [
            i for i, (kind, n, k, _) in enumerate(self.facts) if kind == "ready" and (n, k) == one and i > doubted
        ]
        if not proofs:
            return JOINING
        heard, heard_at = self.last("joined", "beat", of=one)
        ticks = [at for kind, _, _, at in self.facts[max(heard, proofs[0]) :] if kind == "tick"]
        return SUSPECT if any(at - heard_at > SUSPECT_S for at in ticks) else ACTIVE

    @invariant()
    def the_view_follows_from_the_facts(self) -> None:
        view = self.cluster.membership.view
        shown = {(i.instance, i.incarnation): i.state for i in view.instances}
        assert shown == {one: self.expected(one) for one in self.alive}

    @invariant()
    def the_epoch_never_falls(self) -> None:
        epoch = self.cluster.membership.view.epoch
        assert epoch >= self.epoch
        self.epoch = epoch


class EffectsTellTheView(RuleBasedStateMachine):
    """Who only listens to effects knows the membership: no change goes unreported, none is reported twice."""

    kinds = st.sampled_from(["join", "ready", "beat", "fail", "leave"])

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.told: dict[Any, Any] = {}
        self.epoch = 0

    def hear(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, ViewChanged):
                assert effect.view.epoch == self.epoch + 1
                self.epoch = effect.view.epoch
                self.told = {(i.instance, i.incarnation): i.state for i in effect.view.instances}

    @rule(name=MembershipAgainstFacts.names, kind=kinds)
    def tell(self, name: InstanceId, kind: str) -> None:
        try:
            self.hear(getattr(self.cluster, kind)(name))
        except LeaseLost:
            assert kind == "join"  # it was taken for dead: nothing has changed

    @rule(seconds=st.sampled_from([1.0, 6.0, 21.0]))
    def wait(self, seconds: float) -> None:
        self.hear(self.cluster.wait(seconds))

    @invariant()
    def listeners_know_the_view(self) -> None:
        assert self.told == {(i.instance, i.incarnation): i.state for i in self.cluster.membership.view.instances}


TestMembershipAgainstFacts = MembershipAgainstFacts.TestCase
TestMembershipAgainstFacts.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestEffectsTellTheView = EffectsTellTheView.TestCase
TestEffectsTellTheView.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
