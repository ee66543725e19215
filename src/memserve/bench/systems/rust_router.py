"""vllm-router and sglang-router, as their users start them. Child of `memserve bench gateway`.

Runs in the router's own environment: `python -m memserve.bench.systems.rust_router PACKAGE`.
"""

import importlib.metadata
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from memserve.bench.systems.channel import System, serve

_START_S = 60.0


class Router:
    def __init__(self, package: str) -> None:
        self._module = f"{package.replace('-', '_')}.launch_router"
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, request: dict[str, Any]) -> str:
        """URL once it answers. Raises RuntimeError when it does not in time."""
        with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as metrics:
            port, metrics_port = free.getsockname()[1], metrics.getsockname()[1]
        options = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics_port)]
        options += ["--policy", request["policy"], "--log-level", "error", "--worker-urls", *request["backends"]]
        self._process = subprocess.Popen((sys.executable, "-m", self._module, *options), stdout=sys.stderr)
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + _START_S
        while not _answers(url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._module} did not answer (status {self._process.returncode})")
            time.sleep(0.1)
        return url

    def close(self, _request: dict[str, Any]) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None


def _answers(url: str) -> bool:
    body = b'{"model":"bench","messages":[{"role":"user","content":"hello"}],"max_tokens":1}'
    asked = urllib.request.Request(  # noqa: S310 - our own loopback address
        f"{url}/v1/chat/completions", data=body, headers={"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _system() -> System:
    package = sys.argv[1]
    __import__(f"{package.replace('-', '_')}.launch_router")
    router = Router(package)
    return System(version=importlib.metadata.version(package), handlers={"open": router.open, "close": router.close})


if __name__ == "__main__":
    serve(_system)
