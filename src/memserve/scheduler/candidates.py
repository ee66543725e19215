"""Who may be weighed for a request, by role and by what the cluster is at the moment. Pure functions of a view."""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from memserve.cluster.view import ClusterView, InstanceView
from memserve.core.enums import SERVING_ROLES, CachingMode, Role
from memserve.core.ids import InstanceId

_NOBODY = np.zeros(0, dtype=np.int64)


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Instances that are weighed against each other."""

    instances: tuple[InstanceId, ...] = ()
    roles: tuple[Role, ...] = ()
    """Of each instance, in order."""
    used: npt.NDArray[np.int64] = _NOBODY
    """Of each instance, tokens in blocks of its pool that are held for somebody: reserved or leased."""
    kinds: tuple[Role, ...] = ()
    """Each role once."""
    index: dict[InstanceId, int] = {}
    """Place of each instance."""

    def __add__(self, other: "Group") -> "Group":
        if not self.instances or not other.instances:
            return self if self.instances else other
        return _group([*self._rows(), *other._rows()])

    def without(self, excluded: frozenset[InstanceId]) -> "Group":
        if not excluded:
            return self
        return _group([row for row in self._rows() if row[0] not in excluded])

    def _rows(self) -> "zip[tuple[InstanceId, Role, int]]":
        return zip(self.instances, self.roles, self.used.tolist(), strict=True)


class Candidates(msgspec.Struct, frozen=True, kw_only=True):
    whole: Group
    """May serve the whole request."""
    prefill: Group
    """May compute the prompt for one of `decode`; empty where no two instances can split a request."""
    decode: Group
    """May decode what one of `prefill` hands over."""
    first: Group
    """May compute the prompt: all of `prefill` and `whole`, each once."""
    givers: Group
    """May send what they hold to who computes the prompt; memory instances among them."""
    kinds: tuple[Role, ...]
    """Roles of all, each once."""
    bytes_per_token: float
    """Of KV, on the wire."""

    def unsplit(self) -> "Candidates":
        """Without splitting a request, where anybody is meant for whole ones."""
        if not self.whole.instances or not self.prefill.instances:
            return self
        return msgspec.structs.replace(self, prefill=Group(), decode=Group(), first=self.whole)


def candidates(
    view: ClusterView, exclude: frozenset[InstanceId] = frozenset(), *, caching: CachingMode = CachingMode.RETURN
) -> Candidates:
    """Who may do what. Where nobody is meant for whole requests and no two can split one, whoever is left works alone.

    KV of decode instances comes back in PD-Caching-3 only: the other milestones leave it where it is.
    """
    prefills, decodes, colocated, flexible = (_active(view, role).without(exclude) for role in SERVING_ROLES)
    prefill, decode, whole = prefills + flexible, decodes + flexible, colocated + flexible
    givers = prefills + whole + _active(view, Role.MEMORY).without(exclude)
    if caching is CachingMode.RETURN:
        givers += decodes
    if len({*prefill.instances, *decode.instances}) < 2 or not prefill.instances or not decode.instances:
        prefill = decode = Group()
        whole = prefills + decodes + colocated + flexible if not whole.instances else whole
    first = (prefills if prefill.instances else Group()) + whole
    return Candidates(
        whole=whole,
        prefill=prefill,
        decode=decode,
        first=first,
        givers=givers if caching is not CachingMode.BASIC else Group(),
        kinds=tuple(dict.fromkeys((*first.kinds, *decode.kinds, *givers.kinds))),
        bytes_per_token=_bytes_per_token(view),
    )


def _bytes_per_token(view: ClusterView) -> float:
    identity = view.instances[0].peer.identity if view.instances else None
    return identity.block_bytes / identity.block_size if identity is not None else 0.0


def nobody(view: ClusterView, exclude: frozenset[InstanceId]) -> str:
    """For an error: how many instances there are in which state."""
    serving = [i for i in view.instances if i.role in SERVING_ROLES]
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
        used=np.array([used for _, _, used in rows], dtype=np.int64),
        kinds=tuple(dict.fromkeys(roles)),
        index={instance: place for place, (instance, _, _) in enumerate(rows)},
    )
