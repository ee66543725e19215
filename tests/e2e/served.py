"""Real processes for the end-to-end tests: `memserve serve` as a user starts it, and plain vLLM beside it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from memserve.security.secret import Purpose, make_secret, read_secret
from memserve.serving.prepare import free_ports

START_S = 300.0
STOP_S = 15.0


class Served:
    """One server process with its output in a file. `close` ends it as Ctrl-C would."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        url: str,
        env: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.url = url
        self.log = log
        self._output = log.open("wb")
        self.process = subprocess.Popen(
            command,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self.http = httpx.Client(base_url=url, timeout=120.0, headers=headers)

    def wait_ready(self) -> "Served":
        """Itself; closed when it does not get ready."""
        try:
            self._wait_healthy()
        except AssertionError:
            self.close()
            raise
        return self

    def _wait_healthy(self) -> None:
        deadline = time.monotonic() + START_S
        while not self._is_healthy():
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}: {self.text()[-3000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not ready within {START_S:g} s: {self.text()[-3000:]}")
            time.sleep(0.2)

    def _is_healthy(self) -> bool:
        try:
            return self.http.get("/health", timeout=2.0).status_code == 200
        except httpx.TransportError:
            return False

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def close(self) -> float:
        """Seconds that stopping took."""
        begin = time.monotonic()
        try:
            self._stop()
        finally:
            self._end_family()
            self.http.close()
            self._output.close()
        return time.monotonic() - begin

    def _stop(self) -> None:
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def _end_family(self) -> None:
        """A server that fails to start may leave processes of its own behind, gigabytes each."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    # ------------------------------------------------------------ what a client sees

    def complete(
        self, prompt: Sequence[int] | str, *, num_tokens: int, request_id: str = "", **more: Any
    ) -> dict[str, Any]:
        """One greedy completion of exactly `num_tokens` tokens, with their ids and log-probabilities."""
        body = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": num_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "return_token_ids": True,
            "logprobs": 1,
            **more,
        }
        headers = {"X-Request-Id": request_id} if request_id else {}
        answer = self.http.post("/v1/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @property
    def model(self) -> str:
        return str(self.http.get("/v1/models").json()["data"][0]["id"])

    def counters(self) -> dict[tuple[str, ...], float]:
        """Every sample of /metrics by name and label values."""
        families = text_string_to_metric_families(self.http.get("/metrics").text)
        return {
            (s.name, *(v for _, v in sorted(s.labels.items()))): s.value for family in families for s in family.samples
        }

    def cluster(self) -> dict[str, Any]:
        return self.http.get("/admin/cluster").json()["view"]

    def arenas(self) -> list[Path]:
        """Shared memory of all instances."""
        return [Path(instance["peer"]["arena"]["path"]) for instance in self.cluster()["instances"]]

    def reports(self, request: str, *, count: int) -> list[dict[str, Any]]:
        """What the instances report for a request, once `count` of them have."""
        deadline = time.monotonic() + 20.0
        while time.monotonic() < deadline:
            record = self.http.get(f"/admin/requests/{request}").json()
            if len(record.get("reports", ())) >= count:
                return list(record["reports"])
            time.sleep(0.05)
        raise AssertionError(f"{count} reports did not arrive for {request}: {record}")

    def held(self) -> dict[str, int]:
        """What all pools hold for somebody, and what the engines work on, as their heartbeats tell."""
        loads = [instance["load"] for instance in self.cluster()["instances"]]
        tiers = [tier for load in loads for tier in load.get("pool", ())]
        return {
            "reserved": sum(tier["num_reserved"] for tier in tiers),
            "leased": sum(tier["num_leased"] for tier in tiers),
            "requests": sum(load.get("num_running", 0) + load.get("num_waiting", 0) for load in loads),
        }

    def engine_process(self, instance: str) -> psutil.Process:
        """The process that schedules and computes for an instance."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        engines = [child for child in children if "EngineCore" in " ".join(child.cmdline())]
        (engine,) = (e for e in engines if f'"instance":"{instance}"' in " ".join(e.parent().cmdline()))
        return engine

    def wait_until_nothing_is_held(self) -> None:
        deadline = time.monotonic() + 60.0
        while (now := self.held()) != {"reserved": 0, "leased": 0, "requests": 0}:
            assert time.monotonic() < deadline, now
            time.sleep(0.2)


def free_port() -> int:
    return free_ports(1)[0]


def serve(
    *arguments: str,
    log: Path,
    secret: Path | None = None,
    port: int | None = None,
    env: dict[str, str] | None = None,
) -> Served:
    """`memserve serve ARGUMENTS`, on a free port unless one is given.

    With a new secret in that file, every question shows its token.
    """
    headers = {}
    if secret is not None:
        make_secret(secret)
        arguments = (*arguments, "--cluster-secret", str(secret))
        headers["Authorization"] = f"Bearer {read_secret(secret).token(Purpose.ADMIN_HTTP)}"
    port = port or free_port()
    command = [sys.executable, "-m", "memserve", "serve", "--port", str(port), *arguments]
    return Served(command, log=log, url=f"http://127.0.0.1:{port}", headers=headers, env=env)


def plain_vllm(model: Path, *arguments: str, log: Path) -> Served:
    """vLLM without memserve and without prefix caching, with the same arithmetic as the instances."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--served-model-name", model.name, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--block-size", "32", "--distributed-executor-backend", "uni"),
        *("--enable-prompt-tokens-details", *arguments),
    ]
    env = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    return Served(command, log=log, url=f"http://127.0.0.1:{port}", env=env)
