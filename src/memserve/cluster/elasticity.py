"""Which changes of the cluster's size and roles are allowed, and which instances they mean. Pure functions of a view.

A change that would leave a role without anybody is refused: requests would fail, or everything would be served
by instances that were meant for something else. Memory instances serve no requests: the last one may go.
"""

from collections.abc import Mapping

import msgspec

from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.enums import Role
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId

MAX_INSTANCES = 256
"""Of one role: beyond this a number is taken for a slip of the keyboard."""

_COMING_OR_HERE = (InstanceState.JOINING, InstanceState.ACTIVE, InstanceState.SUSPECT)


class ScaleSteps(msgspec.Struct, frozen=True, kw_only=True):
    """What takes the cluster to the numbers asked for."""

    start: tuple[Role, ...] = ()
    """One entry for each instance to be started."""
    drain: tuple[InstanceId, ...] = ()


def check_drain(view: ClusterView, instance: InstanceView) -> None:
    """Raise ConfigError when this instance must not go; one that is not active is of no use to anybody."""
    if instance.state is InstanceState.ACTIVE and instance.role is not Role.MEMORY:
        _check_not_last(view, instance, "start another one first (memserve scale, or memserve instance)")


def check_role(view: ClusterView, instance: InstanceView, role: Role) -> None:
    """Raise ConfigError when this instance cannot or must not become `role`."""
    if role is not instance.role and role not in instance.can_play:
        able = ", ".join(instance.can_play) or f"{instance.role} only"
        raise ConfigError(f"{instance.instance} cannot become {role}: its engine can play {able}")
    if instance.state is InstanceState.DRAINING:
        raise ConfigError(f"{instance.instance} is draining: it takes no new role")
    if role in (instance.role, Role.FLEXIBLE) or instance.state is not InstanceState.ACTIVE:
        return  # a flexible one does what it did before, too
    others = [i.role for i in view.active() if i.instance != instance.instance] + [role]
    if Role.PREFILL in others and Role.DECODE in others:
        return
    _check_not_last(view, instance, f"let another one become {instance.role} first")


def scale_steps(view: ClusterView, wanted: Mapping[Role, int], *, starting: Mapping[Role, int]) -> ScaleSteps:
    """From what is here or about to come (`starting` have not joined yet) to what is wanted.

    Roles that are not named stay as they are. Those with the least to do go first. Raises ConfigError on numbers
    that cannot be, with nothing changed.
    """
    for role, number in wanted.items():
        _check_number(view, role, number)
    start: list[Role] = []
    drain: list[InstanceId] = []
    for role, number in wanted.items():
        here = [i for i in view.instances if i.role is role and i.state in _COMING_OR_HERE]
        lacking = number - len(here) - starting.get(role, 0)
        start += [role] * lacking
        if lacking < 0 and number < len(here):
            drain += [i.instance for i in sorted(here, key=_worth)[: len(here) - number]]
    return ScaleSteps(start=tuple(start), drain=tuple(drain))


def _check_number(view: ClusterView, role: Role, number: int) -> None:
    if not 0 <= number <= MAX_INSTANCES:
        raise ConfigError(f"{role}={number}: the number of instances is from 0 to {MAX_INSTANCES}")
    if number == 0 and role is not Role.MEMORY and any(i.role is role for i in view.instances):
        raise ConfigError(f"{role}=0 would leave no {role} instance: give at least 1, or stop the cluster")


def _worth(instance: InstanceView) -> tuple[bool, int, int, str]:
    """What is lost with it, least first; among equals the name that came last goes."""
    load = instance.load
    cached = sum(tier.num_cached for tier in load.pool)
    return instance.state is InstanceState.ACTIVE, load.num_running + load.num_waiting, cached, instance.instance


def _check_not_last(view: ClusterView, instance: InstanceView, remedy: str) -> None:
    if len(view.active(instance.role)) <= 1:
        raise ConfigError(
            f"{instance.instance} is the last active {instance.role} instance, without it nobody is left for that: "
            f"{remedy}"
        )
