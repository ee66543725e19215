"""One cluster under a seeded schedule of trouble, on a manual clock and without sockets. Not a test.

The manager's Membership, each member's Member and each pool's TransferSessions are those of production; what
is modelled is the wire (messages are lost, late and overtaken, instances are cut off) and the processes (they
are killed, stopped and started again). What must hold is checked after every single event.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from random import Random

from memserve.cluster.events import (
    Cause,
    DrainAsked,
    Effect,
    Event,
    HeartbeatReceived,
    InstanceDied,
    InstanceJoined,
    InstanceReady,
    LeaveReceived,
    RequestFailed,
    RoleAsked,
    Tick,
)
from memserve.cluster.member import Member
from memserve.cluster.membership import Membership
from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.clock import ManualClock
from memserve.core.enums import Role, Tier
from memserve.core.errors import ConfigError, InstanceUnavailable, LeaseLost
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.pool.ledger import PoolLedger
from memserve.transfer.session import TransferSessions
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import (
    AllocRequest,
    HeartbeatReply,
    HeartbeatRequest,
    JoinReply,
    JoinRequest,
    LeaveRequest,
    Load,
    PeerInfo,
)

SUSPECT_S, DEAD_S, HEARTBEAT_S = 2.5, 6.0, 1.0
TROUBLE_S, CALM_S = 18.0, 11.0
_ROLES = (Role.PREFILL, Role.DECODE, Role.COLOCATED)
_NAMES = tuple(InstanceId(name) for name in ("a", "b", "c", "d"))
_LONG_S = 3600.0
"""Leases must come back because a death was told, not because they expired."""
_IDENTITY = KvIdentity(model="m", dtype="f", engine="e", backend="b", block_size=1, block_bytes=8, num_layers=1)

Life = tuple[InstanceId, Incarnation]
Answer = JoinReply | HeartbeatReply | LeaseLost | None
"""None: it did not come, or was a refusal that is asked again."""


class Process:
    """One incarnation: a member and a pool that keeps blocks for its peers."""

    def __init__(self, name: InstanceId, incarnation: int, role: Role, clock: ManualClock) -> None:
        self.life: Life = (name, Incarnation(incarnation))
        peer = PeerInfo(instance=name, incarnation=self.life[1], endpoint="tcp://x:1", identity=_IDENTITY)
        self.member = Member(JoinRequest(cluster="c", peer=peer, role=role, url="", pid=1, can_play=_ROLES))
        self.is_stopped = False
        self.is_cut_off = False
        self.held_for: Counter[Life] = Counter()
        ledger = PoolLedger(block_size=1, capacity={Tier.DRAM: 128}, clock=clock)
        self.pool = TransferSessions(ledger=ledger, clock=clock, block_size=1)

    def keep_for(self, owner: Life) -> None:
        request = AllocRequest(num_blocks=1, tier=Tier.DRAM, owner=owner[0], incarnation=owner[1], ttl_s=_LONG_S)
        self.pool.copies.allocate(request)
        self.held_for[owner] += 1

    def give_back(self, owner: Life) -> None:
        self.pool.peer_left(*owner, process_gone=True)
        del self.held_for[owner]


class Schedule:
    """`run` plays it; an AssertionError names what did not hold, at which moment of which seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.clock = ManualClock()
        self.membership = Membership(clock=self.clock, suspect_s=SUSPECT_S, dead_s=DEAD_S)
        self.processes: dict[InstanceId, Process] = {}
        self.told = ClusterView()
        self.dead: set[Life] = set()
        self.silenced: set[Life] = set()
        self.draining: set[Life] = set()
        self.newest: dict[InstanceId, Incarnation] = {}
        self.num_requests = 0
        self._checked: ClusterView | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._loss = self.random.choice((0.0, 0.05, 0.3))
        self._latency_s = self.random.choice((0.01, 0.2, 1.5))

    def run(self) -> None:
        for name in self.random.sample(_NAMES, self.random.randint(2, 4)):
            self._start(name)
        self._every(1.0, self._tick)
        for _ in range(self.random.randint(4, 14)):
            self._later(self.random.uniform(0, TROUBLE_S), self._mishap)
        self._every(0.5, self._request)
        self._until(TROUBLE_S)
        self._calm_down()
        self._until(TROUBLE_S + CALM_S)
        self._check_converged()

    # ------------------------------------------------------------ time

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.clock.now() + delay_s, self._count, action))

    def _every(self, interval_s: float, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self._later(interval_s, again)

        self._later(interval_s, again)

    def _until(self, end: float) -> None:
        while self._events and self._events[0][0] <= end:
            at, _, action = heapq.heappop(self._events)
            self.clock.advance(at - self.clock.now())
            action()
            self._check_always()
        self.clock.advance(end - self.clock.now())

    # ------------------------------------------------------------ the manager, as its registry answers

    def _tell(self, event: Event) -> None:
        self._perform(self.membership.handle(event))

    def _perform(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, InstanceDied):
                self.dead.add((effect.instance, effect.incarnation))
                if effect.cause is Cause.SILENT:
                    self.silenced.add((effect.instance, effect.incarnation))
                self.draining.discard((effect.instance, effect.incarnation))
            else:
                assert effect.view.epoch == self.told.epoch + 1, self._story("views are not numbered one by one")
                self.told = effect.view

    def _tick(self) -> None:
        """Time passes, and the servers of those who may not have requests yet are asked."""
        self._tell(Tick())
        for instance in self.membership.view.instances:
            if instance.state is InstanceState.JOINING and self._answering(instance) is not None:
                self._tell(InstanceReady(instance=instance.instance, incarnation=instance.incarnation))

    def _answer(self, message: JoinRequest | HeartbeatRequest) -> Answer:
        if isinstance(message, JoinRequest):
            return self._join(message)
        life = (message.instance, message.incarnation)
        self._tell(HeartbeatReceived(instance=life[0], incarnation=life[1], load=message.load))
        known = self.membership.knows(*life)
        dead = self.membership.dead_since(message.seen) if known else ()
        return HeartbeatReply(epoch=self.membership.view.epoch, known=known, dead=dead)

    def _join(self, message: JoinRequest) -> JoinReply | LeaseLost | None:
        peer = message.peer
        life = (peer.instance, peer.incarnation)
        is_stale = peer.incarnation < self.newest.get(peer.instance, 0)
        try:
            self._tell(InstanceJoined(peer=peer, role=message.role, url=message.url, can_play=message.can_play))
        except (ConfigError, InstanceUnavailable):
            return None
        except LeaseLost as error:
            assert life in self.silenced, self._story(f"{life} is fenced without having been silent")
            return error
        assert life not in self.silenced, self._story(f"{life} goes on after it was taken for dead")
        assert not is_stale, self._story(f"{life} was accepted after {self.newest[peer.instance]}")
        self.newest[peer.instance] = peer.incarnation
        self.dead.discard(life)
        return JoinReply(epoch=self.membership.first_epoch(peer.instance), heartbeat_s=HEARTBEAT_S)

    # ------------------------------------------------------------ processes and the wire between

    def _start(self, name: InstanceId) -> None:
        process = Process(name, self._count + 1, self.random.choice(_ROLES), self.clock)
        self.processes[name] = process
        self._later(self.random.uniform(0, 1), lambda: self._beat(process))

    def _beat(self, process: Process) -> None:
        """One exchange with the manager, and the next one in time."""
        if not self._lives(process):
            return
        self._later(HEARTBEAT_S, lambda: self._beat(process))
        if process.is_stopped:
            return
        message = process.member.next_message(Load())
        if self._is_lost(process):
            process.member.lost()
            return
        self._later(self._delay(), lambda: self._arrived(process, message))

    def _arrived(self, process: Process, message: JoinRequest | HeartbeatRequest) -> None:
        """Messages of a process that has died meanwhile arrive all the same."""
        reply = self._answer(message)
        if self._is_lost(process):
            reply = None
        self._later(self._delay(), lambda: self._replied(process, reply))

    def _replied(self, process: Process, reply: Answer) -> None:
        if not self._lives(process) or process.is_stopped:
            return
        if isinstance(reply, LeaseLost):
            self._restart(process)
            return
        if reply is None:
            process.member.lost()
            return
        for dead in process.member.answered(reply):
            process.give_back((dead.instance, dead.incarnation))

    def _lives(self, process: Process) -> bool:
        return self.processes.get(process.life[0]) is process

    def _is_lost(self, process: Process) -> bool:
        return process.is_cut_off or self.random.random() < self._loss

    def _delay(self) -> float:
        return self.random.random() * self._latency_s

    def _request(self) -> None:
        """A request goes to somebody who may have it, who then holds blocks at somebody else."""
        active = self.membership.view.active()
        if not active:
            return
        self.num_requests += 1
        chosen = self.random.choice(active)
        process = self._answering(chosen)
        if process is None:
            self._tell(RequestFailed(instance=chosen.instance, incarnation=chosen.incarnation))
            return
        others = [self._answering(i) for i in self.membership.view.instances if i is not chosen]
        holders = [p for p in others if p is not None]
        if holders:
            self.random.choice(holders).keep_for(process.life)

    def _answering(self, instance: InstanceView) -> Process | None:
        """The process that is meant, if it runs."""
        process = self.processes.get(instance.instance)
        is_it = process is not None and process.life[1] == instance.incarnation and not process.is_stopped
        return process if is_it else None

    # ------------------------------------------------------------ trouble

    def _mishap(self) -> None:
        name = self.random.choice(_NAMES)
        process = self.processes.get(name)
        if process is None:
            self._start(name)
            return
        what = self.random.choice(
            (self._crash, self._restart, self._stop, self._cut, self._leave, self._drain, self._role)
        )
        what(process)

    def _crash(self, process: Process) -> None:
        del self.processes[process.life[0]]

    def _restart(self, process: Process) -> None:
        self._crash(process)
        self._start(process.life[0])

    def _stop(self, process: Process) -> None:
        process.is_stopped = True
        self._later(self.random.uniform(0, 2 * DEAD_S), lambda: setattr(process, "is_stopped", False))

    def _cut(self, process: Process) -> None:
        process.is_cut_off = True
        self._later(self.random.uniform(0, 2 * DEAD_S), lambda: setattr(process, "is_cut_off", False))

    def _leave(self, process: Process) -> None:
        message = LeaveRequest(instance=process.life[0], incarnation=process.life[1])
        self._crash(process)
        if self.random.random() >= self._loss:
            left = LeaveReceived(instance=message.instance, incarnation=message.incarnation)
            self._later(self._delay(), lambda: self._tell(left))

    def _drain(self, process: Process) -> None:
        name = process.life[0]
        present = self.membership.view.find(name)
        try:
            self._tell(DrainAsked(instance=name))
        except ConfigError:
            return
        assert present is not None
        self.draining.add((name, present.incarnation))
        self._later(self.random.uniform(0, 3), lambda: self._leave(process) if self._lives(process) else None)

    def _role(self, process: Process) -> None:
        try:
            self._tell(RoleAsked(instance=process.life[0], role=self.random.choice(_ROLES)))
        except ConfigError:
            return

    def _calm_down(self) -> None:
        self._loss, self._latency_s = 0.0, 0.01
        for process in self.processes.values():
            process.is_stopped = process.is_cut_off = False

    # ------------------------------------------------------------ what must hold

    def _check_always(self) -> None:
        view = self.membership.view
        if view is self._checked:
            return
        self._checked = view
        shown = {(i.instance, i.incarnation): i for i in view.instances}
        assert not shown.keys() & self.dead, self._story("a dead incarnation is in the view")
        for instance in view.active():
            life = (instance.instance, instance.incarnation)
            assert life not in self.draining, self._story(f"a request could go to {life}, which is draining")
        for name, incarnation in shown:
            assert incarnation == self.newest[name], self._story(f"{name}/{incarnation} is not the newest")
        told = {(i.instance, i.incarnation): (i.role, i.state) for i in self.told.instances}
        assert told == {life: (i.role, i.state) for life, i in shown.items()}, self._story("a change was not told")
        assert view.epoch == self.told.epoch >= Epoch(0)

    def _check_converged(self) -> None:
        """Everybody who lives is in, nobody else is, and nobody holds anything for the dead."""
        living = {process.life for process in self.processes.values()}
        states = {(i.instance, i.incarnation): i.state for i in self.membership.view.instances}
        assert states.keys() == living, self._story(f"{states} are in the view, {living} live")
        settled = (InstanceState.ACTIVE, InstanceState.DRAINING)
        assert all(state in settled for state in states.values()), self._story(f"not settled: {states}")
        for process in self.processes.values():
            assert process.member.is_inside, self._story(f"{process.member} believes to be outside")
            gone = process.held_for.keys() - living
            assert not gone, self._story(f"{process.life} holds blocks for {gone}, who are dead")
            assert process.pool.stats().num_open == process.held_for.total()

    def _story(self, what: str) -> str:
        return f"seed {self.seed} at {self.clock.now():.2f} s: {what}; {self.membership}"
