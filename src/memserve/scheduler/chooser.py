"""Where a prompt is best served now: who may take it, what each of them holds and has queued, the policy's choice.

Owns the policy in use and who may be weighed in the present view. Enters nothing anywhere: what follows from a choice
is the Scheduler's.
"""

from random import Random
from typing import NamedTuple

from memserve.cluster.view import ClusterView
from memserve.core.enums import CachingMode
from memserve.core.errors import InstanceUnavailable
from memserve.core.ids import InstanceId
from memserve.scheduler.candidates import Candidates, Group, candidates, nobody
from memserve.scheduler.flight import Asked
from memserve.scheduler.planner import Plan, Policies, plan
from memserve.scheduler.policies import PolicyKind
from memserve.scheduler.prospect import Prospect
from memserve.scheduler.weighing import Weigher


class Chosen(NamedTuple):
    prospect: Prospect
    plan: Plan


class Chooser:
    def __init__(
        self, weigher: Weigher, *, policy: PolicyKind, random: Random, caching: CachingMode, may_pull: bool
    ) -> None:
        """`may_pull`: whoever is chosen may have from others what they hold."""
        self._weigher = weigher
        self._random = random
        self._caching = caching
        self._may_pull = may_pull
        self._view: ClusterView | None = None
        self._everyone = candidates(ClusterView(), caching=caching)
        self.use(policy)

    @property
    def policy(self) -> str:
        return self._policy.name

    def use(self, policy: PolicyKind) -> None:
        """Choose by this policy from now on."""
        self._policy = policy
        self._by = Policies(first=policy.make(self._random), decode=policy.make(self._random))

    def choose(
        self,
        asked: Asked,
        view: ClusterView,
        *,
        output_tokens: float,
        exclude: frozenset[InstanceId] = frozenset(),
        alone: bool = False,
    ) -> Chosen:
        """Match, score, choose. With `alone`, one instance for all of it where anybody is meant for whole requests.

        Raises InstanceUnavailable when no instance is active.
        """
        found = self._candidates(view, exclude)
        if alone:
            found = found.unsplit()
        givers = found.givers if self._may_pull else Group()
        prospect = self._weigher.look(asked, found, givers=givers, output_tokens=output_tokens)
        return Chosen(prospect, plan(self._weigher, self._by, found, prospect, self._random))

    def source(self, prospect: Prospect) -> InstanceId:
        """Whom to pull from what `prospect` says that others hold."""
        return self._weigher.source(prospect)

    def _candidates(self, view: ClusterView, exclude: frozenset[InstanceId]) -> Candidates:
        if view is not self._view:
            self._view, self._everyone = view, candidates(view, caching=self._caching)
        found = candidates(view, exclude, caching=self._caching) if exclude else self._everyone
        if not found.first.instances:
            raise InstanceUnavailable(nobody(view, exclude))
        return found

    def __repr__(self) -> str:
        return f"Chooser({self._policy.name}, {self._weigher})"
