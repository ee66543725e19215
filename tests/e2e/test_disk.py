"""A working set larger than DRAM: the second round comes from disk, also after a restart, with plain vLLM's tokens."""

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.e2e.served import Served, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

PROMPT, HELD, NUM_PROMPTS = 300, 288, 8  # tokens; whole blocks of 32; 72 blocks where DRAM has 44
SOURCES = ("hbm_tokens", "dram_tokens", "disk_tokens", "received_tokens", "computed_tokens")


def started(folder: Path, log: str) -> Served:
    tiers = ("--colocated", "1", "--dram", "64MiB", "--disk", f"{folder / 'kv'}:256MiB")
    engine = ("--", "--max-model-len", "1024", "--no-enable-prefix-caching")
    return serve(*tiers, *engine, log=folder / log).wait_ready()


def sources(cluster: Served, request: str) -> dict[str, int]:
    """Where the tokens of a prompt came from; they add up."""
    [report] = cluster.reports(request, count=1)
    found = {source: report.get(source, 0) for source in SOURCES}
    assert sum(found.values()) == report["prompt_tokens"] == PROMPT
    return found


def test_a_working_set_larger_than_dram_is_served_from_disk_and_so_is_the_next_start(
    plain: Served, tmp_path: Path
) -> None:
    random = Random(11)
    prompts = [[random.randrange(100, 40_000) for _ in range(PROMPT)] for _ in range(NUM_PROMPTS)]
    truth = [plain.complete(prompt, num_tokens=6)["choices"][0]["token_ids"] for prompt in prompts]
    cluster = started(tmp_path, "first.log")
    try:
        for turn in ("one", "two"):
            for number, prompt in enumerate(prompts):
                answer = cluster.complete(prompt, num_tokens=6, request_id=f"{turn}-{number}")
                assert answer["choices"][0]["token_ids"] == truth[number]
        found = [sources(cluster, f"two-{number}") for number in range(NUM_PROMPTS)]
        assert [part["computed_tokens"] for part in found] == [PROMPT - HELD] * NUM_PROMPTS, "nothing was lost"
        assert sum(part["disk_tokens"] for part in found) >= (72 - 44) * 32
        counters, name = cluster.counters(), "colocated-0"
        told = {
            what: counters["memserve_instance_prompt_tokens_total", name, what.removesuffix("_tokens")]
            for what in SOURCES
        }
        assert told["disk_tokens"] == sum(part["disk_tokens"] for part in found)
        assert sum(told.values()) == 2 * NUM_PROMPTS * PROMPT
        assert counters["memserve_pool_disk_blocks_total", name, "read_errors"] == 0
        assert counters["memserve_pool_disk_blocks_total", name, "demoted"] >= 72 - 44
        shown = subprocess.run(
            [sys.executable, "-m", "memserve", "status", "--url", cluster.url],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "DISK" in shown.stdout
    finally:
        cluster.close()
    again = started(tmp_path, "second.log")
    try:
        for number in (0, 7):
            answer = again.complete(prompts[number], num_tokens=6, request_id=f"again-{number}")
            assert answer["choices"][0]["token_ids"] == truth[number]
            assert sources(again, f"again-{number}")["disk_tokens"] == HELD
    finally:
        again.close()
