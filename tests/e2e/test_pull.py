"""KV that another instance holds is pulled instead of computed again, here over TCP in a cluster with a secret:
TLS with certificates that the instances issue to themselves. Over shared memory test_memory_instance.py pulls.
"""

from pathlib import Path
from random import Random

import pytest

from tests.e2e.served import Served, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

PROMPT, HELD = 300, 288  # tokens; whole blocks of 32


def test_the_instance_that_has_nothing_pulls_what_the_other_holds(plain: Served, tmp_path: Path) -> None:
    settings = tmp_path / "cluster.toml"
    settings.write_text('[pool]\npaths = ["tcp"]\n')
    layout = ("--colocated", "2", "--policy", "round-robin", "--config", str(settings))
    cluster = serve(*layout, log=tmp_path / "serve.log", secret=tmp_path / "secret").wait_ready()
    try:
        random = Random(3)
        prompt = [random.randrange(100, 40_000) for _ in range(PROMPT)]
        truth = plain.complete(prompt, num_tokens=8)["choices"][0]["token_ids"]
        answers = []
        for name in ("first", "second"):
            answers.append(cluster.complete(prompt, num_tokens=8, request_id=name))
            assert answers[-1]["choices"][0]["token_ids"] == truth
        (first,), (second,) = cluster.reports("first", count=1), cluster.reports("second", count=1)
        assert first["instance"] != second["instance"]
        assert (first["computed_tokens"], second["computed_tokens"]) == (PROMPT, PROMPT - HELD)
        assert second["pulled_tokens"] == HELD
        assert answers[1]["usage"]["prompt_tokens_details"]["cached_tokens"] == HELD
        moved = cluster.counters()["memserve_transfer_tokens_total", "tcp", first["instance"], second["instance"]]
        assert moved == HELD
    finally:
        cluster.close()
