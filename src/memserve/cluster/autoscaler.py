"""When a cluster grows, shrinks or shifts instances from one role to another, decided from its service levels.

Owns what was recommended lately and when each role changed last. Performs nothing: `decide` returns the changes,
`changed` is told what became of them. The same class runs in the manager and in the simulator.

    levels ──> need of each target (sizing.py) ──> between bounds ──> steady enough? cooled down? ──> Verdict

Hysteresis has three parts. The number to grow to and the number to shrink to lie apart (sizing.ROOMY). A role grows
only after two looks that ask for it, and shrinks only to the most that any look of the last `calm_s` asked for (the
stabilisation window of Kubernetes' HorizontalPodAutoscaler). And once changed, a role does not change in the other
direction for `cool_down_s`.
"""

from collections import deque
from collections.abc import Mapping
from math import inf

import msgspec

from memserve.cluster.service_levels import Levels, Targets
from memserve.cluster.sizing import Need, for_answers, for_prompts
from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.clock import Clock
from memserve.core.enums import Role
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId

_PROMPTS = (Role.PREFILL, Role.FLEXIBLE, Role.COLOCATED)
_ANSWERS = (Role.DECODE, Role.FLEXIBLE, Role.COLOCATED)
_HERE = (InstanceState.JOINING, InstanceState.ACTIVE, InstanceState.SUSPECT)
_UP, _DOWN = 1, -1


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Of the instances of one role."""

    least: int
    most: int


class AutoscaleRules(msgspec.Struct, frozen=True, kw_only=True):
    targets: Targets
    bounds: Mapping[Role, Bounds]
    """Roles that are not named are left alone."""
    cool_down_s: float = 300.0
    """A role that has grown does not shrink for so long, and the other way round."""
    calm_s: float = 300.0
    """A role shrinks when it has needed fewer for so long."""
    settle_s: float = 60.0
    """Until a change shows in the levels: the window that they are taken over."""

    def check(self) -> None:
        """Raise ConfigError, with the numbers, on rules that nobody can follow."""
        for name, value in (("TTFT", self.targets.ttft_s), ("TPOT", self.targets.tpot_s)):
            if not 0 < value < inf:
                raise ConfigError(f"the {name} target is {value:g} s: give a time above 0")
        if not 0 < self.targets.share < 1:
            raise ConfigError(f"{self.targets.share:g} of the requests: give a share between 0 and 1, such as 0.9")
        if min(self.cool_down_s, self.calm_s, self.settle_s) < 0:
            raise ConfigError(f"a cool-down of {self.cool_down_s:g} s and {self.calm_s:g} s of calm: give 0 or more")
        if not self.bounds:
            raise ConfigError("the autoscaler has no roles to change: give bounds such as prefill=1:4,decode=1:4")
        for role, bounds in self.bounds.items():
            if role is Role.MEMORY:
                raise ConfigError("memory instances serve no requests: the autoscaler does not change their number")
            if not 1 <= bounds.least <= bounds.most:
                raise ConfigError(
                    f"{role}={bounds.least}:{bounds.most}: the least is at least 1, and not above the most"
                )


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known at one moment."""

    view: ClusterView
    levels: Levels
    starting: Mapping[Role, int]
    """Instances that were started and have not joined."""


class Resize(msgspec.Struct, frozen=True, kw_only=True):
    """So many instances of a role from now on."""

    role: Role
    before: int
    after: int
    why: str

    def __str__(self) -> str:
        return f"{self.role} {self.before} -> {self.after}: {self.why}"


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """One instance to another role."""

    instance: InstanceId
    before: Role
    after: Role
    why: str

    def __str__(self) -> str:
        return f"{self.instance} from {self.before} to {self.after}: {self.why}"


Change = Resize | Shift


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    """One for each role, in words: its numbers, and why it stays as it is if it does."""


class _Wish(msgspec.Struct, frozen=True, kw_only=True):
    """Of one role at one look."""

    role: Role
    here: int
    """Active or coming."""
    active: int
    least: int
    most: int
    """Between the two, the number is right as it is."""
    why: str


class Autoscaler:
    """Of one cluster; `decide` is called again and again at about the same distance."""

    def __init__(self, rules: AutoscaleRules, *, clock: Clock) -> None:
        """Raises ConfigError on rules that cannot be."""
        rules.check()
        self._rules = rules
        self._clock = clock
        self._looks: dict[Role, deque[tuple[float, _Wish]]] = {role: deque() for role in rules.bounds}
        self._active: dict[Role, tuple[int, float]] = {}
        self._changed: dict[Role, tuple[float, int]] = {}

    @property
    def rules(self) -> AutoscaleRules:
        return self._rules

    def decide(self, seen: Observation) -> Verdict:
        """What is to be changed now; tell `changed` each change that is really made."""
        targets = self._rules.targets
        prompts = for_prompts(seen.levels, targets, len(seen.view.active(*_PROMPTS)))
        answers = for_answers(seen.levels, targets, len(seen.view.active(*_ANSWERS)))
        wishes = [self._look(role, seen, prompts, answers) for role in self._rules.bounds]
        notes = tuple(f"{wish.role} {wish.here}, right from {wish.least} to {wish.most}: {wish.why}" for wish in wishes)
        shift = self._shift(wishes, seen.view)
        resizes = (self._resize(wish) for wish in wishes)
        changes = (shift,) if shift is not None else tuple(change for change in resizes if change is not None)
        return Verdict(changes=changes, notes=notes)

    def changed(self, change: Change) -> None:
        """It is being made: the cool-down of its roles begins."""
        now = self._clock.now()
        if isinstance(change, Resize):
            self._changed[change.role] = (now, _UP if change.after > change.before else _DOWN)
        else:
            self._changed[change.before] = (now, _DOWN)
            self._changed[change.after] = (now, _UP)

    def _look(self, role: Role, seen: Observation, prompts: Need, answers: Need) -> _Wish:
        now, bounds = self._clock.now(), self._rules.bounds[role]
        num_active = len(seen.view.active(role))
        if self._active.get(role, (num_active, 0.0))[0] != num_active:
            self._active[role] = (num_active, now)
        self._active.setdefault(role, (num_active, now - self._rules.settle_s))
        needs = [
            (need, sum(i.role is not role for i in seen.view.active(*able)))
            for need, able in ((prompts, _PROMPTS), (answers, _ANSWERS))
            if role in able
        ]
        least = max(need.at_least - others for need, others in needs)
        most = max(need.at_most - others for need, others in needs)
        here = sum(i.role is role and i.state in _HERE for i in seen.view.instances) + seen.starting.get(role, 0)
        wish = _Wish(
            role=role,
            here=here,
            active=num_active,
            least=min(max(least, bounds.least), bounds.most),
            most=min(max(most, bounds.least), bounds.most),
            why="; ".join(need.why for need, _ in needs if need.why) or "no requests lately",
        )
        looks = self._looks[role]
        looks.append((now, wish))
        while len(looks) > 2 and looks[1][0] <= now - self._rules.calm_s:
            looks.popleft()
        return wish

    # ------------------------------------------------------------ one role

    def _resize(self, wish: _Wish) -> Resize | None:
        after = self._grown(wish) if wish.here < wish.least else self._shrunk(wish)
        if after == wish.here:
            return None
        return Resize(role=wish.role, before=wish.here, after=after, why=wish.why)

    def _grown(self, wish: _Wish) -> int:
        """To what both of the latest two looks asked for; at once where the bounds ask for it."""
        bounds, looks = self._rules.bounds[wish.role], self._looks[wish.role]
        wanted = min(look.least for _, look in list(looks)[-2:])
        if len(looks) < 2 or not self._may(wish.role, _UP):
            wanted = bounds.least
        return max(wish.here, wanted)

    def _shrunk(self, wish: _Wish) -> int:
        """By one, when every look of the calm time could have done without it; at once where there are too many.

        Not while one of them is coming: there is nothing to drain yet, and a start may take longer than the calm time.
        """
        bounds, looks = self._rules.bounds[wish.role], self._looks[wish.role]
        if wish.here > wish.active:
            return wish.here
        if wish.here > bounds.most:
            return bounds.most
        is_calm = looks[0][0] <= self._clock.now() - self._rules.calm_s
        wanted = max(look.most for _, look in looks)
        if wish.here > wanted and is_calm and self._may(wish.role, _DOWN):
            return wish.here - 1
        return wish.here

    def _may(self, role: Role, direction: int) -> bool:
        """Its last change shows in the levels by now, and one in the other direction is long ago."""
        now = self._clock.now()
        at, last = self._changed.get(role, (-inf, direction))
        has_settled = now - self._active[role][1] >= self._rules.settle_s
        return has_settled and (last == direction or now - at >= self._rules.cool_down_s)

    # ------------------------------------------------------------ between two roles

    def _shift(self, wishes: list[_Wish], view: ClusterView) -> Shift | None:
        """Where one role has to grow and another one could do without an instance that can play it."""
        for taker in wishes:
            if self._grown(taker) <= taker.here:
                continue
            for giver in wishes:
                can_give = giver.here > giver.most and self._may(giver.role, _DOWN) and giver is not taker
                able = [i for i in view.active(giver.role) if taker.role in i.can_play] if can_give else []
                if len(able) > 1:
                    least_busy = min(able, key=_work)
                    why = f"{taker.why}, and {giver.role} needs {giver.most} of {giver.here}"
                    return Shift(instance=least_busy.instance, before=giver.role, after=taker.role, why=why)
        return None

    def __repr__(self) -> str:
        bounds = ", ".join(f"{role} {b.least} to {b.most}" for role, b in self._rules.bounds.items())
        return f"Autoscaler({bounds})"


def _work(instance: InstanceView) -> tuple[int, InstanceId]:
    return instance.load.num_running + instance.load.num_waiting, instance.instance
