"""Real vLLM on a real Ray cluster of three nodes, one of which dies under load. Takes minutes: runs when asked to.

MEMSERVE_RAY_NODES=1 pytest tests/e2e/test_ray_nodes.py
"""

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.served import START_S, Served, free_port, serve

_log = logging.getLogger(__name__)
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install memserve[ray]")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.skipif("MEMSERVE_RAY_NODES" not in os.environ, reason="takes minutes: MEMSERVE_RAY_NODES=1"),
]

STORE_BYTES = 80 << 20
PROMPTS = tuple([7 * number + position % 50 for position in range(120)] for number in range(1, 7))
NUM_TOKENS = 48


class Nodes:
    """A head without CPUs, and nodes with two each, on addresses of their own."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster  # noqa: PLC0415

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        self.cluster = Cluster(initialize_head=True, head_node_args={**head, "node_ip_address": "127.0.0.2"})
        self._nodes = {
            host: self.cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES, node_ip_address=host)
            for host in ("127.0.0.3", "127.0.0.4")
        }

    def kill(self, url: str) -> str:
        """The instance that serves there, and its node, by SIGKILL; the node's address."""
        host, port = url.removeprefix("http://").split(":")
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if port in words and host in words and "memserve.manager.guard" not in words:
                engines = [c for c in process.children(recursive=True) if "EngineCore" in " ".join(c.cmdline())]
                for one in (*engines, process):
                    one.kill()
        self.cluster.remove_node(self._nodes.pop(host), allow_graceful=False)
        return host


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.cluster.shutdown()


class Load:
    """Eight clients, half of them streaming; each answer must be the one expected."""

    def __init__(self, served: Served, expected: list[list[int]]) -> None:
        self._served = served
        self._expected = expected
        self._model = served.model
        self._going = True
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()

    @contextmanager
    def going_on(self) -> Iterator["Load"]:
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._going = False
            for thread in threads:
                thread.join()
        assert self.faults == []

    def _client(self, client: int) -> None:
        kind = "stream" if client % 2 else "whole"
        number = client
        while self._going:
            number += 1
            name = f"{kind}-{client}-{number}"
            try:
                found = (self._stream if client % 2 else self._whole)(PROMPTS[number % len(PROMPTS)], name)
            except Exception as error:
                self.faults.append(f"{name}: {type(error).__name__}: {error}")
                continue
            if found != self._expected[number % len(PROMPTS)]:
                self.faults.append(f"{name}: {found}")
            self.counts["right"] += 1
            self.counts[f"{kind} asked again"] += len(self.record(name)["decisions"]) > 1
            self.counts["resumed"] += len(self.record(name)["resumed_at"])

    def record(self, name: str) -> dict[str, Any]:
        return dict(self._served.http.get(f"/admin/requests/{name}").json())

    def _whole(self, prompt: list[int], name: str) -> list[int]:
        return list(self._served.complete(prompt, num_tokens=NUM_TOKENS, request_id=name)["choices"][0]["token_ids"])

    def _stream(self, prompt: list[int], name: str) -> list[int]:
        body = {"model": self._model, "prompt": prompt, "max_tokens": NUM_TOKENS, "ignore_eos": True, "stream": True}
        body |= {"temperature": 0, "return_token_ids": True}
        with self._served.http.stream("POST", "/v1/completions", json=body, headers={"X-Request-Id": name}) as answer:
            events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
        return [token for event in events for choice in event["choices"] for token in choice["token_ids"] or ()]

    def instance_with_both_kinds(self) -> str:
        """Where a stream that has begun and a whole answer are under way; "" when there is none."""
        latest = self._served.http.get("/admin/requests?limit=20").json()["requests"]
        running = [one for one in latest if one["state"] == "running" and one["decisions"]]
        begun = {one["decisions"][-1]["decode"] for one in running if one["ttft_s"] is not None}
        whole = {one["decisions"][-1]["decode"] for one in running if one["request"].startswith("whole")}
        return min(begun & whole, default="")


def test_a_node_dies_under_load_and_its_instance_comes_back_on_another_one_and_nothing_is_left(
    nodes: Nodes, plain: Served, tmp_path: Path
) -> None:
    expected = [plain.complete(prompt, num_tokens=NUM_TOKENS)["choices"][0]["token_ids"] for prompt in PROMPTS]
    served = serve(
        *("--colocated", "2", "--dram", "256MiB", "--launcher", "ray", "--ray-address", nodes.cluster.address),
        *("--manager", f"127.0.0.2:{free_port()}", "--", "--max-model-len", "2048"),
        log=tmp_path / "serve.log",
    )
    try:
        served.wait_ready()
        with Load(served, expected).going_on() as load:
            until(lambda: load.counts["right"] >= 8 or load.faults, "eight are answered")
            until(load.instance_with_both_kinds, "both kinds on one instance")
            name = load.instance_with_both_kinds() or "colocated-0"
            lost = nodes.kill(urls(served)[name])
            until(lambda: name not in urls(served), "its death is noticed")
            until(lambda: f"missing: {name} ended: " in status(served), "status tells why it is missing")
            until(lambda: len(urls(served)) == 2, "it serves again")
            assert lost not in urls(served)[name]
            enough = load.counts["right"] + 16
            until(lambda: load.counts["right"] >= enough or load.faults, "more is answered")
        _log.info("%s", dict(load.counts))
        assert load.counts["stream asked again"] > 0
        assert load.counts["whole asked again"] > 0
        assert load.counts["resumed"] > 0
    finally:
        served.close()
    found = re.search(r"/logs/[\d-]+-([0-9a-f]+)/", served.text())
    assert found is not None
    assert not [p for p in psutil.process_iter(["cmdline"]) if found[1] in " ".join(p.info["cmdline"] or ())]
    assert not list(Path("/dev/shm").glob(f"memserve-{found[1]}-*"))  # noqa: S108 - POSIX shared memory lies here


def urls(served: Served) -> dict[str, str]:
    """Of the active instances."""
    return {i["peer"]["instance"]: i["url"] for i in served.cluster()["instances"] if i["state"] == "active"}


def status(served: Served) -> str:
    command = [sys.executable, "-m", "memserve", "status", "--url", served.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {START_S:g} s: {what}"
        time.sleep(0.2)
