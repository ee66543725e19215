"""Policies that other packages offer, found through the metadata of an installed distribution."""

import re
from pathlib import Path
from random import Random

import pytest
from clusters import colocated

from memserve.core.clock import ManualClock
from memserve.core.errors import ConfigError, InvariantError
from memserve.core.ids import RequestId
from memserve.scheduler.policies import find_policy, known_policies
from memserve.scheduler.scheduler import Scheduler

DOCUMENT = Path(__file__).parents[2] / "docs" / "policies.md"


def install(site: Path, code: str, offers: str) -> None:
    """A distribution as pip would leave it behind."""
    (site / "acme_routing.py").write_text(code)
    info = site / "acme_routing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-routing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[memserve.policies]\n{offers}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "acme_routing", raising=False)
    return tmp_path


def new_scheduler(policy: str) -> Scheduler:
    return Scheduler(block_size=4, policy=policy, clock=ManualClock(), random=Random(0))


def test_the_policy_of_the_document_routes_once_its_package_is_installed(site: Path) -> None:
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert code is not None
    install(site, code[1], "longest-prefix = acme_routing:LongestPrefix")
    assert "longest-prefix" in known_policies()
    scheduler, where = new_scheduler("longest-prefix"), colocated(3)
    first = scheduler.decide(request=RequestId("1"), tokens=[1] * 40, view=where)
    scheduler.prefilled(first.request)
    again = [scheduler.decide(request=RequestId(str(n)), tokens=[1] * 44, view=where) for n in range(2, 9)]
    assert {decision.decode for decision in again} == {first.decode}
    assert again[0].policy == "longest-prefix"


def test_a_name_that_comes_along_cannot_be_taken(site: Path) -> None:
    install(site, "def broken(random): raise RuntimeError", "prompt-tree = acme_routing:broken")
    assert new_scheduler("prompt-tree").stats().policy == "prompt-tree"


@pytest.mark.parametrize("value", ["acme_routing:Missing", "no_such_module:Policy", "acme_routing:NeedsMore"])
def test_an_offered_policy_that_cannot_be_used_is_refused_with_the_reason(site: Path, value: str) -> None:
    install(site, "class NeedsMore:\n    def __init__(self, random, more): ...", f"mine = {value}")
    with pytest.raises(ConfigError, match=rf'policy "mine" is offered as {value}, which cannot be used'):
        find_policy("mine")


def test_a_policy_that_does_not_score_everyone_is_named(site: Path) -> None:
    code = "class Short:\n    def __init__(self, random): ...\n    def scores(self, choice): return [0.0]"
    install(site, code, "short = acme_routing:Short")
    with pytest.raises(InvariantError, match=r"Short.*gave 1 scores to 2 instances"):
        new_scheduler("short").decide(request=RequestId("1"), tokens=[1] * 8, view=colocated(2))
