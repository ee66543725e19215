"""What a view says of all its instances together."""

from memserve.cluster.view import ClusterView, InstanceState
from memserve.core.enums import Role
from tests.scheduler.clusters import instance, view


def test_answers_come_from_those_that_decode() -> None:
    roles = (Role.PREFILL, Role.DECODE, Role.COLOCATED, Role.FLEXIBLE, Role.MEMORY)
    assert view(*(instance(f"i{number}", role) for number, role in enumerate(roles))).num_answering == 3


def test_prefill_instances_answer_when_nobody_else_is_left() -> None:
    away = instance("d0", Role.DECODE, state=InstanceState.SUSPECT)
    assert view(instance("p0", Role.PREFILL), instance("p1", Role.PREFILL), away).num_answering == 2


def test_nobody_answers_in_an_empty_cluster() -> None:
    assert ClusterView().num_answering == 0
