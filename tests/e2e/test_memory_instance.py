"""A memory instance on real vLLM: what DRAM has no room for comes back from there, with the same tokens."""

import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.e2e.served import Served, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

PROMPT, HELD, NUM_PROMPTS = 300, 288, 8  # tokens; whole blocks of 32; 72 blocks where DRAM has 44


def wait_active(cluster: Served, role: str) -> None:
    deadline = time.monotonic() + 60
    while not any(i["role"] == role and i["state"] == "active" for i in cluster.cluster()["instances"]):
        assert time.monotonic() < deadline, cluster.cluster()
        time.sleep(0.1)


def test_what_went_to_a_memory_instance_is_pulled_back_and_its_kill_costs_nothing_but_cache(
    plain: Served, tmp_path: Path
) -> None:
    random = Random(13)
    prompts = [[random.randrange(100, 40_000) for _ in range(PROMPT)] for _ in range(NUM_PROMPTS)]
    truth = [plain.complete(prompt, num_tokens=6)["choices"][0]["token_ids"] for prompt in prompts]
    engine = ("--", "--max-model-len", "1024", "--no-enable-prefix-caching")
    cluster = serve("--colocated", "1", "--dram", "64MiB", *engine, log=tmp_path / "serve.log").wait_ready()
    command = [sys.executable, "-m", "memserve", "pool", "--dram", "256MiB", "--name", "more", "--join", cluster.url]
    memory = Served(command, log=tmp_path / "memory.log", url=cluster.url)
    try:
        wait_active(cluster, "memory")
        for turn in ("one", "two"):
            for number, prompt in enumerate(prompts):
                answer = cluster.complete(prompt, num_tokens=6, request_id=f"{turn}-{number}")
                assert answer["choices"][0]["token_ids"] == truth[number]
                time.sleep(0.3)  # demotion and its events are behind the answer
        reports = [cluster.reports(f"two-{number}", count=1)[0] for number in range(NUM_PROMPTS)]
        pulled = [report.get("pulled_tokens", 0) for report in reports]
        assert sum(pulled) >= (72 - 44) * 32
        assert {moved["source"] for report in reports for moved in report.get("moved", ())} == {"more"}
        memory.process.kill()
        memory.process.wait()
        for number, prompt in enumerate(prompts):
            answer = cluster.complete(prompt, num_tokens=6, request_id=f"three-{number}")
            assert answer["choices"][0]["token_ids"] == truth[number]
    finally:
        memory.close()
        cluster.close()
