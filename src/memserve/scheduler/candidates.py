"""Who may be weighed for a request, by role and by what the cluster is at the moment. Pure functions of a view."""

from collections.abc import Sequence

import msgspec

from memserve.cluster.view import ClusterView, InstanceView
from memserve.core.enums import Role
from memserve.core.ids import InstanceId

SERVING = (Role.PREFILL, Role.DECODE, Role.COLOCATED)
"""Roles of instances with an engine."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Instances that are weighed against each other."""

    instances: tuple[InstanceId, ...] = ()
    roles: tuple[Role, ...] = ()
    """Of each instance, in order."""
    used: tuple[int, ...] = ()
    """Of each instance, tokens in blocks of its pool that are held for somebody: reserved or leased."""
    kinds: tuple[Role, ...] = ()
    """Each role once."""

    def __add__(self, other: "Group") -> "Group":
        return _group([*self._rows(), *other._rows()])

    def without(self, excluded: frozenset[InstanceId]) -> "Group":
        return _group([row for row in self._rows() if row[0] not in excluded])

    def _rows(self) -> "zip[tuple[InstanceId, Role, int]]":
        return zip(self.instances, self.roles, self.used, strict=True)


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
    return _group([(i.instance, i.role, _used_tokens(i)) for i in view.active(role)])


def _used_tokens(instance: InstanceView) -> int:
    num_blocks = sum(tier.num_reserved + tier.num_leased for tier in instance.load.pool)
    return num_blocks * instance.peer.identity.block_size


def _group(rows: Sequence[tuple[InstanceId, Role, int]]) -> Group:
    roles = tuple(role for _, role, _ in rows)
    return Group(
        instances=tuple(instance for instance, _, _ in rows),
        roles=roles,
        used=tuple(used for _, _, used in rows),
        kinds=tuple(dict.fromkeys(roles)),
    )
