"""Names of systems, and what each is started with."""

import pytest

from memserve.bench.serve.systems import MemserveSystem, find_systems
from memserve.core.errors import ConfigError


def options(name: str) -> tuple[str, ...]:
    (system,) = find_systems(name)
    assert isinstance(system, MemserveSystem)
    return system.options


def test_systems_come_in_the_order_asked_for() -> None:
    assert [system.name for system in find_systems("auto, vllm-apc,vllm-nixl")] == ["auto", "vllm-apc", "vllm-nixl"]


def test_each_milestone_has_both_ways_of_transfer() -> None:
    for mode in ("basic", "prefill", "both", "return"):
        split = ("--prefill", "1", "--decode", "1", "--caching", mode)
        assert options(mode) == split
        assert options(f"{mode}-by-layer") == (*split, "--transfer", "by-layer")
        assert options(f"{mode}-by-request") == (*split, "--transfer", "by-request")


@pytest.mark.parametrize("names", ["", "vllm,,vllm", "vllm,sglang"])
def test_a_wrong_list_is_answered_with_the_names(names: str) -> None:
    with pytest.raises(ConfigError, match="choose among vllm, vllm-apc, vllm-nixl"):
        find_systems(names)
