"""The autoscaler at work over a cluster that only notes what is asked of it: proposed, made, refused, said once."""

from collections.abc import Callable, Mapping

import pytest

from memserve.cluster.autoscaler import Autoscaler, AutoscaleRules, Bounds
from memserve.cluster.service_levels import ServiceLevels, Targets
from memserve.cluster.view import ClusterView
from memserve.core.clock import ManualClock
from memserve.core.enums import AutoscaleMode, Role
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.manager.autoscaling import Autoscaling, Outcome
from memserve.manager.operations import Operation, OperationKind, Operations
from memserve.manager.registry import ALONE, ActingScaler

TARGETS = Targets(ttft_s=1.0, tpot_s=0.1, share=0.9)


class NotedCommands:
    """Fits Elastic."""

    def __init__(self) -> None:
        self.starting: dict[Role, int] = {}
        self.asked: list[Mapping[Role, int]] = []
        self.refusal = ""
        self._operations = Operations()

    async def scale(self, wanted: Mapping[Role, int]) -> tuple[Operation, ...]:
        self.asked.append(wanted)
        if self.refusal:
            raise ConfigError(self.refusal)
        return (self._operations.begin(OperationKind.START, InstanceId("prefill-0"), "starting"),)

    async def change_role(self, instance: InstanceId, role: Role) -> Operation:
        return self._operations.begin(OperationKind.ROLE, instance, role)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def commands() -> NotedCommands:
    return NotedCommands()


def autoscaling(
    mode: AutoscaleMode,
    clock: ManualClock,
    commands: NotedCommands,
    acting: Callable[[], ActingScaler] = lambda: ALONE,
) -> Autoscaling:
    """Over nobody, where there is to be one prefill instance at least."""
    rules = AutoscaleRules(targets=TARGETS, bounds={Role.PREFILL: Bounds(least=1, most=2)})
    return Autoscaling(
        Autoscaler(rules, clock=clock),
        mode=mode,
        levels=ServiceLevels(clock=clock, targets=TARGETS, window_s=60.0),
        view=ClusterView,
        elasticity=commands,
        clock=clock,
        every_s=10.0,
        acting=acting,
    )


async def looks(scaling: Autoscaling, clock: ManualClock, number: int) -> None:
    for _ in range(number):
        await scaling.look()
        clock.advance(10.0)


async def test_a_proposal_is_told_once_in_a_cool_down_and_changes_nothing(
    clock: ManualClock, commands: NotedCommands
) -> None:
    scaling = autoscaling(AutoscaleMode.PROPOSE, clock, commands)
    await looks(scaling, clock, 30)
    report = scaling.report()
    assert commands.asked == []
    (decided,) = report.decided
    assert (decided.outcome, decided.seconds_ago, decided.operations) == (Outcome.PROPOSED, 300.0, ())
    assert decided.change == "prefill 0 -> 1: no requests lately"
    assert report.notes == ("prefill 0, right from 1 to 1: no requests lately",)
    await looks(scaling, clock, 2)
    assert scaling.report().counts == {Outcome.PROPOSED: 2}


async def test_a_change_is_made_as_an_operation_that_can_be_followed(
    clock: ManualClock, commands: NotedCommands
) -> None:
    scaling = autoscaling(AutoscaleMode.ON, clock, commands)
    await scaling.look()
    assert commands.asked == [{Role.PREFILL: 1}]
    assert [(one.outcome, one.operations) for one in scaling.report().decided] == [(Outcome.MADE, (1,))]


async def test_of_several_that_share_a_cluster_only_the_one_whose_turn_it_is_acts_and_the_next_goes_on(
    clock: ManualClock, commands: NotedCommands
) -> None:
    other = ActingScaler(is_here=False, manager="tcp://other:1")
    turn = [other]
    scaling = autoscaling(AutoscaleMode.ON, clock, commands, acting=lambda: turn[-1])
    await looks(scaling, clock, 5)
    assert (commands.asked, scaling.report().decided, scaling.report().acting) == ([], (), other)
    turn.append(ActingScaler(is_here=True, manager="tcp://this:1"))
    await scaling.look()
    assert commands.asked == [{Role.PREFILL: 1}]


async def test_what_is_refused_is_told_with_the_reason_and_not_asked_again_at_once(
    clock: ManualClock, commands: NotedCommands
) -> None:
    commands.refusal = "1 instance needs 3 GiB, 1 GiB is free"
    scaling = autoscaling(AutoscaleMode.ON, clock, commands)
    await looks(scaling, clock, 10)
    assert len(commands.asked) == 1
    (decided,) = scaling.report().decided
    assert (decided.outcome, decided.reason) == (Outcome.REFUSED, commands.refusal)
