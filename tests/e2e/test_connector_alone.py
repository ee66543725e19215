"""The connector as the README shows it: in a vLLM that somebody starts by hand, without a gateway."""

import json
import os
import re
from pathlib import Path

import pytest

from memserve.bundled.model import bundled_model, cache_folder
from tests.e2e.served import Served, plain_vllm

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where it lies on Linux
README = Path(__file__).parents[2] / "README.md"


def test_a_server_started_by_hand_finds_a_prompt_in_the_pool_the_second_time(plain: Served, tmp_path: Path) -> None:
    (shown,) = re.findall(r"--kv-transfer-config '(\{.*?\})'\n", README.read_text(), re.DOTALL)
    model = bundled_model(cache_folder(os.environ))
    config = json.dumps(json.loads(shown))
    # without vLLM's own prefix cache, whatever is found comes from the pool
    options = ("--no-enable-prefix-caching", "--shutdown-timeout", "3", "--kv-transfer-config", config)
    before = set(SHARED_MEMORY.glob("memserve-*"))
    server = plain_vllm(model, *options, log=tmp_path / "vllm.log").wait_ready()
    try:
        prompt = list(range(1000, 1150))
        first, second = (server.complete(prompt, num_tokens=8) for _ in range(2))
        assert (first["usage"]["prompt_tokens_details"] or {}).get("cached_tokens", 0) == 0
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == 128
        truth = plain.complete(prompt, num_tokens=8)["choices"][0]["token_ids"]
        assert first["choices"][0]["token_ids"] == second["choices"][0]["token_ids"] == truth
        assert set(SHARED_MEMORY.glob("memserve-*")) - before
    finally:
        server.close()
    assert not set(SHARED_MEMORY.glob("memserve-*")) - before
