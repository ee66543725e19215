"""A real cluster that changes while requests go on: roles, its gateway, its size. Every answer is plain vLLM's.

The tests share instances that joined and run in the order of the file.
"""

import itertools
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lasting import NUM_TOKENS, LastingCluster, Traffic, tokens
from tests.e2e.served import Served

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PROMPTS = tuple([7 * number + position % 50 for position in range(200)] for number in range(1, 4))
LONG = [5 * position % 1900 for position in range(400)]
BLOCK = 32
AT_ONCE = 6
ROLES = {"prefill-0": "prefill", "prefill-1": "prefill", "decode-0": "decode"}
RULES = "[autoscaler]\nevery_s = 1\nwindow_s = 5\ncool_down_s = 5\ncalm_s = 10\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LastingCluster]:
    with LastingCluster(tmp_path_factory.mktemp("lasting")) as made:
        for name, role in ROLES.items():
            made.join(name, role)
        made.served.wait_ready()
        made.wait_roles(ROLES)
        yield made


@pytest.fixture(scope="module")
def expected(plain: Served) -> list[tuple[list[int], list[int]]]:
    return [(prompt, tokens(plain, prompt)) for prompt in PROMPTS]


def test_an_instance_changes_its_role_and_back_and_every_answer_stays_the_same(
    cluster: LastingCluster, expected: list[tuple[list[int], list[int]]]
) -> None:
    assert "prefill-1 is ready: " in cluster.log("prefill-1").read_text()
    with Traffic(cluster.served, expected).going_on() as traffic:
        traffic.more()
        assert "was prefill, is decode" in cluster.command("role", "prefill-1", "decode")
        assert cluster.roles() == ROLES | {"prefill-1": "decode"}
        traffic.more()
        cluster.command("role", "prefill-1", "prefill")
        traffic.more()


class Conversations:
    """Six, turn by turn; each prompt begins with all that was said before."""

    def __init__(self, plain: Served) -> None:
        self._plain = plain
        self._said = [[3000 + 11 * number + position % 60 for position in range(150)] for number in range(6)]
        self._holders: list[str] = []

    def begin(self, served: Served) -> set[str]:
        """The first turns, all at once; the instances that computed them."""

        def first(number: int) -> str:
            self._turn(served, number, request_id=f"first-{number}")
            record = served.http.get(f"/admin/requests/first-{number}").json()
            return str(record["decisions"][-1]["prefill"])

        with ThreadPoolExecutor(len(self._said)) as pool:
            self._holders = list(pool.map(first, range(len(self._said))))
        return set(self._holders)

    def go_on(self, served: Served) -> float:
        """The next turn of each; share that was cached of what was said before it, in whole blocks.

        Those of one instance first: who does not know it and goes round is right for every other one at most.
        """
        held = sum((len(said) - 1) // BLOCK * BLOCK for said in self._said)  # the last token of an answer has no KV
        order = sorted(range(len(self._said)), key=self._holders.__getitem__)
        return sum(self._turn(served, number) for number in order) / held

    def _turn(self, served: Served, number: int, **more: Any) -> int:
        """Prompt tokens that were cached."""
        prompt = [*self._said[number], *(1000 + 37 * number + position % 40 for position in range(50))]
        answer = served.complete(prompt, num_tokens=NUM_TOKENS, **more)
        given = answer["choices"][0]["token_ids"]
        assert given == tokens(self._plain, prompt)
        self._said[number] = [*prompt, *given]
        return int((answer["usage"]["prompt_tokens_details"] or {}).get("cached_tokens", 0))


def test_the_gateway_after_one_that_was_killed_knows_what_the_instances_hold(
    cluster: LastingCluster, plain: Served
) -> None:
    talks = Conversations(plain)
    assert talks.begin(cluster.served) == {"prefill-0", "prefill-1"}
    before = talks.go_on(cluster.served)
    cluster.served.process.send_signal(signal.SIGKILL)
    cluster.served.process.wait()
    cluster.served.close()
    cluster.start_gateway().wait_ready()
    cluster.wait_roles(ROLES)
    after = talks.go_on(cluster.served)
    assert before > 0.95
    assert after >= 0.95 * before


class Burst:
    """Long prompts of which nothing is cached, `AT_ONCE` at a time."""

    def __init__(self, served: Served, expected: list[int]) -> None:
        self._served = served
        self._expected = expected
        self._numbers = itertools.count()

    def ask(self) -> dict[str, Any]:
        """One; its record at the gateway."""
        name = f"burst-{next(self._numbers)}"
        assert tokens(self._served, LONG, cache_salt=name, request_id=name) == self._expected
        return dict(self._served.http.get(f"/admin/requests/{name}").json())

    def seconds_alone(self) -> float:
        begin = time.monotonic()
        self.ask()
        return time.monotonic() - begin

    def wave(self) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [f.result() for f in [pool.submit(self.ask) for _ in range(AT_ONCE)]]


def test_an_autoscaler_drains_what_is_idle_starts_one_when_a_burst_comes_and_says_why(
    cluster: LastingCluster, plain: Served, expected: list[tuple[list[int], list[int]]], tmp_path: Path
) -> None:
    alone_s = Burst(cluster.served, tokens(plain, LONG)).seconds_alone()
    (tmp_path / "rules.toml").write_text(RULES)
    cluster.served.close()
    served = cluster.start_gateway(
        *("--config", str(tmp_path / "rules.toml"), "--autoscale", "on", "--autoscale-bounds", "prefill=1:2"),
        *("--ttft-target", f"{2 * alone_s:.3f}", "--tpot-target", f"{alone_s:.3f}"),
    )
    served.wait_ready()
    cluster.wait_roles(ROLES)
    burst = Burst(served, tokens(plain, LONG))
    with Traffic(served, expected).going_on() as traffic:
        cluster.wait(lambda: [o["state"] for o in operations(served, "drain")] == ["done"], "one is drained")
        (drained,) = operations(served, "drain")
        assert re.search(r"handed on to prefill-\d: (\d+) of \1 prompts", drained["step"]), drained
        log = cluster.log(drained["instance"])
        cluster.wait(lambda: f"{drained['instance']} is drained and stopped" in log.read_text(), "its command ends")
        traffic.more()
        cluster.wait(lambda: burst.wave() and operations(served, "start"), "one is started")
        cluster.wait(lambda: len(cluster.roles()) == 3, "it serves")
        used = {record["decisions"][-1]["prefill"] for record in burst.wave()}
        assert len(used) == 2, "the burst is spread"
        traffic.more()
    told = served.http.get("/admin/autoscaler").json()
    changes = [one["change"] for one in told["decided"] if one["outcome"] == "made"]
    assert [change.partition(":")[0] for change in changes][:2] == ["prefill 2 -> 1", "prefill 1 -> 2"]
    assert re.search(r"90% of \d+ first tokens within [\d.]+ s \(target ", changes[1]), changes
    shown = cluster.command("status")
    assert "autoscaler on" in shown
    assert f"made: {changes[1]}" in shown


def operations(served: Served, kind: str) -> list[dict[str, Any]]:
    return [one for one in served.http.get("/admin/operations").json()["operations"] if one["kind"] == kind]
