"""Two gateways that share one cluster in a real etcd: each is killed with -9 while the other serves on."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from tests.etcd_server import etcd_server, needs_etcd
from tests.serving.processes import SHARED_MEMORY, memserve
from tests.serving.test_elastic_cluster import members, traffic
from tests.serving.test_joined_instance import free_port

BOTH = {"prefill-0": ("prefill", "active"), "decode-0": ("decode", "active")}


@asynccontextmanager
async def nobody_left_of(cluster: str) -> AsyncIterator[None]:
    """Instances outlive the gateway that started them: a test that fails must not leave them behind."""
    try:
        yield
    finally:
        mark = f"/memserve-{cluster}-"
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "memserve.manager.guard" in command and any(mark in word for word in command):
                process.terminate()


@needs_etcd
async def test_each_gateway_can_be_killed_and_etcd_too_while_serving_goes_on(tmp_path: Path) -> None:
    name = f"shared{free_port()}"
    async with etcd_server(tmp_path) as etcd, nobody_left_of(name):
        shared = ("--port", "0", "--dram", "384MiB", "--name", name, "--registry", etcd.url)
        async with (
            memserve("serve", *shared) as starts,
            memserve("serve", "--prefill", "0", "--decode", "0", *shared) as routes,
        ):
            first, second = await asyncio.gather(starts.url(), routes.url())
            async with traffic(first), traffic(second):
                await etcd.kill()
                assert "serving goes on" in await routes.line_with("ERROR etcd at ")
                await etcd.start()
                await routes.line_with("etcd answers again")
            async with traffic(second) as requests:
                await starts.kill()
                await requests.more(4)
            async with memserve("serve", *shared) as again:
                url = await again.url()
                assert "starting " not in again.text, "what lives on is not started a second time"
                async with traffic(url) as requests:
                    await routes.kill()
                    await requests.more(4)
                assert await members(url) == BOTH
                again.send(signal.SIGTERM)
                assert await again.status(within_s=15) == 0
    assert list(SHARED_MEMORY.glob(f"memserve-{name}-*")) == []


async def test_an_etcd_that_is_not_there_is_one_line_and_status_2() -> None:
    address = f"etcd://127.0.0.1:{free_port()}"
    async with memserve("serve", "--dram", "384MiB", "--port", "0", "--name", "x", "--registry", address) as serve:
        assert await serve.status(within_s=30) == 2
    assert serve.lines[-1].startswith("memserve: no etcd answers at 127.0.0.1:")
    assert len(serve.lines) == 1
