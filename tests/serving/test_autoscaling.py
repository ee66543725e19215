"""Settings of the autoscaler: what is left out, what is typed, what cannot be."""

import msgspec
import pytest

from memserve.cli.options import ServeOptions, serve_config
from memserve.cluster.autoscaler import Bounds
from memserve.config import ServeConfig
from memserve.core.enums import AutoscaleMode, Role
from memserve.core.errors import ConfigError
from memserve.serving.autoscaling import autoscale_rules


def test_it_is_off_unless_somebody_asks_for_it() -> None:
    assert autoscale_rules(ServeConfig()) is None


def test_without_bounds_a_role_may_become_twice_as_many() -> None:
    rules = autoscale_rules(serve_config(ServeOptions(prefill=1, decode=3, autoscale=AutoscaleMode.ON)))
    assert rules is not None
    assert rules.bounds == {Role.PREFILL: Bounds(least=1, most=2), Role.DECODE: Bounds(least=1, most=6)}


def test_targets_and_bounds_are_taken_as_typed() -> None:
    options = ServeOptions(autoscale=AutoscaleMode.PROPOSE, ttft_target_s=0.5, autoscale_bounds="colocated=2:5")
    rules = autoscale_rules(serve_config(options))
    assert rules is not None
    assert (rules.targets.ttft_s, rules.bounds) == (0.5, {Role.COLOCATED: Bounds(least=2, most=5)})


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (ServeOptions(ttft_target_s=0.0), "the TTFT target is 0 s: give a time above 0"),
        (ServeOptions(autoscale_bounds="prefill=4:2"), "prefill=4:2: the least is at least 1, and not above the most"),
        (ServeOptions(autoscale_bounds="prefill"), '--autoscale-bounds "prefill": write ROLE=LEAST:MOST'),
        (ServeOptions(autoscale_bounds="a=1:2"), '--autoscale-bounds "a=1:2": write ROLE=LEAST:MOST'),
        (ServeOptions(prefill=0, decode=0), "no roles to change"),
    ],
)
def test_what_nobody_can_follow_is_refused(typed: ServeOptions, says: str) -> None:
    asked = msgspec.structs.replace(typed, autoscale=AutoscaleMode.ON)
    with pytest.raises(ConfigError, match=says):
        autoscale_rules(serve_config(asked))
