"""What an instance that is added to a running cluster will be: named, checked against the machine, placed.

Owns the checks and the name. Blocks (model files, memory figures are read); starts nothing.
"""

import itertools
from collections.abc import Collection, Sequence

import msgspec

from memserve.config import ServeConfig
from memserve.core.enums import Role
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.manager.launch_plan import LaunchSpec, Place, one_more
from memserve.manager.machine import Machine
from memserve.manager.preflight import preflight
from memserve.serving.prepare import PreparedRun, free_ports


def more_instances(
    run: PreparedRun,
    roles: Sequence[Role],
    *,
    manager_endpoint: str,
    taken: Collection[InstanceId],
    beside: Sequence[LaunchSpec],
) -> tuple[LaunchSpec, ...]:
    """One spec for each role, under names that are not taken. Raises ConfigError when the machine cannot hold them."""
    check_room(run.config, roles)
    place = Place(
        manager_endpoint=manager_endpoint, machine=run.machine, cluster=run.cluster, log_folder=run.log_folder
    )
    specs: list[LaunchSpec] = []
    for role, port in zip(roles, free_ports(len(roles)), strict=True):
        name = free_name(role, {*taken, *(spec.instance for spec in specs)})
        specs.append(one_more(run.config, place, name=name, role=role, port=port, beside=[*beside, *specs]))
    return tuple(specs)


def check_room(config: ServeConfig, roles: Sequence[Role]) -> None:
    """As before a start, with what is free on the machine now. Raises ConfigError with the numbers."""
    if Role.MEMORY in roles:
        raise ConfigError("memory instances are not started from here: run `memserve pool` where their memory is")
    cluster = msgspec.structs.replace(
        config.cluster,
        prefill=roles.count(Role.PREFILL),
        decode=roles.count(Role.DECODE),
        colocated=roles.count(Role.COLOCATED),
        instances=roles.count(Role.FLEXIBLE),
    )
    preflight(msgspec.structs.replace(config, cluster=cluster), machine=Machine.here())


def free_name(role: Role, taken: Collection[InstanceId]) -> InstanceId:
    """The first role-number that nobody has."""
    return next(name for number in itertools.count() if (name := InstanceId(f"{role}-{number}")) not in taken)
