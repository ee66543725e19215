"""Who may be weighed for a request, by role and by what the cluster is at the moment. Pure functions of a view."""

import msgspec

from memserve.cluster.view import ClusterView
from memserve.core.enums import Role
from memserve.core.ids import InstanceId

SERVING = (Role.PREFILL, Role.DECODE, Role.COLOCATED)
"""Roles of instances with an engine."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Instances that are weighed against each other."""

    instances: tuple[InstanceId, ...] = ()
    roles: tuple[Role, ...] = ()
    """Of each instance, in order."""
    kinds: tuple[Role, ...] = ()
    """Each of them once."""

    def __add__(self, other: "Group") -> "Group":
        return _group(self.instances + other.instances, self.roles + other.roles)

    def without(self, excluded: frozenset[InstanceId]) -> "Group":
        left = [(i, role) for i, role in zip(self.instances, self.roles, strict=True) if i not in excluded]
        return _group(tuple(i for i, _ in left), tuple(role for _, role in left))


class Candidates(msgspec.Struct, frozen=True, kw_only=True):
    first: Group
    """May compute the prompt, and serve the whole request unless they are prefill instances with a decode group."""
    decode: Group
    """May decode what a prefill instance hands over."""


def candidates(view: ClusterView, exclude: frozenset[InstanceId] = frozenset()) -> Candidates:
    """With both halves present, prefill and colocated ones compete; else whoever is left works alone."""
    prefills, decodes, colocated = (_active(view, role).without(exclude) for role in SERVING)
    if prefills.instances and decodes.instances:
        return Candidates(first=prefills + colocated, decode=decodes)
    return Candidates(first=prefills + decodes + colocated, decode=Group())


def nobody(view: ClusterView, exclude: frozenset[InstanceId]) -> str:
    """For an error: how many instances there are in which state."""
    serving = [i for i in view.instances if i.role in SERVING]
    left_out = [i for i in serving if i.instance in exclude]
    states: dict[str, int] = {}
    for instance in serving:
        if instance.instance not in exclude:
            states[instance.state] = states.get(instance.state, 0) + 1
    counts = [f"{count} {state}" for state, count in states.items()]
    if left_out:
        counts.append(f"{len(left_out)} already tried for this request")
    listed = ", ".join(counts) or "none joined yet"
    return f"no instance can take the request: of {len(serving)} serving instances {listed}; try again shortly"


def _active(view: ClusterView, role: Role) -> Group:
    instances = tuple(i.instance for i in view.active(role))
    return _group(instances, (role,) * len(instances))


def _group(instances: tuple[InstanceId, ...], roles: tuple[Role, ...]) -> Group:
    return Group(instances=instances, roles=roles, kinds=tuple(dict.fromkeys(roles)))
