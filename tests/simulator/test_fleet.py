"""A cluster that follows a day's load beside clusters of fixed size, in simulated hours."""

import pytest

from memserve.cluster.autoscaler import AutoscaleRules, Bounds, Change, Resize, Shift
from memserve.cluster.service_levels import Targets
from memserve.core.enums import Role
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.simulator.day import DayShape, day, day_named
from memserve.simulator.fleet import Fleet, compare, num_reversals
from memserve.simulator.profiles import load_profile
from memserve.simulator.setting import Setting

TARGETS = Targets(ttft_s=5.0, tpot_s=0.1, share=0.9)
BASE = Setting(policy="prompt-tree", instances=1, profile=load_profile("h800-llama2-13b-tp2"), pool_blocks=200)
SHAPE = DayShape(hours=2.0, per_s=0.3, prompt=(15_000, 40_000))


def rules(**bounds: tuple[int, int]) -> AutoscaleRules:
    return AutoscaleRules(targets=TARGETS, bounds={Role(r): Bounds(least=a, most=b) for r, (a, b) in bounds.items()})


def test_on_a_day_it_takes_fewer_hours_than_the_best_fixed_size_and_never_turns_round() -> None:
    report = compare(day(SHAPE), BASE, rules(colocated=(1, 6)), sizes=[1, 2])
    own, best = report.autoscaled, report.best_fixed
    assert best is not None
    assert own.attained >= TARGETS.share
    assert own.instance_hours < 0.95 * best.instance_hours
    assert own.num_changes >= 2
    assert own.num_reversals == 0


def test_roles_follow_the_load_as_well() -> None:
    trace = day(DayShape(hours=0.25, per_s=0.6, prompt=(15_000, 40_000)))
    setting = Setting(policy="prompt-tree", instances=4, layout="1p3d", profile=BASE.profile, pool_blocks=200)
    result = Fleet(trace, setting, targets=TARGETS, rules=rules(prefill=(1, 4), decode=(1, 4))).run()
    assert result.num_changes > 0
    assert result.most <= 8


def test_the_same_seed_gives_the_same_day_and_another_one_another() -> None:
    assert day(SHAPE) == day(SHAPE)
    assert day(SHAPE) != day(DayShape(hours=2.0, per_s=0.3, prompt=(15_000, 40_000), seed=1))


def test_a_day_may_be_shorter_and_must_be_one() -> None:
    assert day_named("day:6", seed=3) == DayShape(hours=6.0, seed=3)
    assert day_named("mixed", seed=3) is None
    for name in ("day:soon", "day:0"):
        with pytest.raises(ConfigError, match="day"):
            day(day_named(name, seed=0) or SHAPE)


def test_a_change_back_within_the_cool_down_is_counted() -> None:
    def to(after: int, before: int) -> Change:
        return Resize(role=Role.DECODE, before=before, after=after, why="")

    shift = Shift(instance=InstanceId("i"), before=Role.DECODE, after=Role.PREFILL, why="")
    assert num_reversals([(0.0, to(2, 1)), (100.0, to(3, 2)), (399.0, to(2, 3))], within_s=300.0) == 1
    assert num_reversals([(0.0, to(2, 1)), (300.0, to(1, 2))], within_s=300.0) == 0
    assert num_reversals([(0.0, to(2, 1)), (10.0, shift)], within_s=300.0) == 1
