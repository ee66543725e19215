"""Systems as running processes: what is started for each, and in which order.

Owns the processes for the length of a block, each under a guard that ends it when this process ends, and their logs
in a folder of their own. Nothing of one system is left when the next one starts.
"""

import asyncio
import importlib.util
import re
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec

from memserve.bench.processes import give_lowest_priority, helper_seconds
from memserve.bench.serve.stack import ColocatedStack, MemserveStack, SplitStack, Stack
from memserve.bench.serve.systems import KV_GIB, NUM_INSTANCES, MemserveSystem, NixlSystem, System, VllmSystem
from memserve.core.enums import Role
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.manager.child import Child
from memserve.manager.launch_plan import LaunchSpec
from memserve.serving.plain_vllm import plain_specs, running
from memserve.serving.prepare import LOOPBACK, PreparedRun, free_ports

_ROUTER = "vllm-router"
_PROXY = "memserve.bench.serve.nixl_proxy"
_CACHING = "--enable-prefix-caching"
_IDLE_S, _SPINNING = 1.0, 0.1
_READ_BACK_TOKENS = 8
"""vLLM's own 64 is more than most answers here have; it is divided as the answers' lengths are (workloads.py)."""
_INSTANCE_LOG = re.compile(r"^starting .*, log (\S+)$", re.MULTILINE)


class Launcher:
    """Starts systems of one prepared run; `peers` holds the virtual environment of vllm-router."""

    def __init__(self, *, run: PreparedRun, peers: Path, http: aiohttp.ClientSession) -> None:
        self._run = run
        self._peers = peers
        self._http = http

    def running(self, system: System, *, logs: Path) -> AbstractAsyncContextManager[Stack]:
        """Healthy inside the block. Raises ConfigError or DeadlineExceeded, with the reason, when it does not start."""
        match system:
            case MemserveSystem():
                return self._memserve(system, logs)
            case VllmSystem():
                return self._vllm(system, logs)
            case NixlSystem():
                return self._nixl(system, logs)

    @asynccontextmanager
    async def _memserve(self, system: MemserveSystem, logs: Path) -> AsyncIterator[Stack]:
        port = free_ports(1)[0]
        options = (*system.options, "--port", str(port), "--dram", f"{KV_GIB // 2}GiB")
        argv = (sys.executable, "-m", "memserve", "serve", self._run.config.model, *options)
        spec = _spec("memserve", argv=argv, port=port, logs=logs)
        try:
            async with running((spec,), self._run.machine) as children:
                yield MemserveStack(url=spec.url, pids=_pids(children), http=self._http)
        finally:
            await asyncio.to_thread(_keep_instance_logs, Path(spec.log))

    @asynccontextmanager
    async def _vllm(self, system: VllmSystem, logs: Path) -> AsyncIterator[Stack]:
        specs = self._plain(system.engine_args, logs)
        workers = ("--worker-urls", *(spec.url for spec in specs))
        router = self._router(("--policy", system.policy, *workers), logs)
        async with running(specs, self._run.machine) as engines, running((router,), self._run.machine) as routers:
            yield ColocatedStack(url=router.url, pids=_pids((*engines, *routers)))

    @asynccontextmanager
    async def _nixl(self, system: NixlSystem, logs: Path) -> AsyncIterator[Stack]:
        if importlib.util.find_spec("nixl") is None:
            raise ConfigError("the engine's environment has no nixl: pip install --no-deps nixl nixl-cu12")
        ports = free_ports(NUM_INSTANCES)
        prefill, decode = (
            _with_nixl(spec, port, system) for spec, port in zip(self._plain((_CACHING,), logs), ports, strict=True)
        )
        front = self._nixl_front(system, prefill.url, decode.url, logs)
        async with running((prefill, decode), self._run.machine) as engines:
            await _calm_spinning_threads(_pids(engines))
            async with running((front,), self._run.machine) as fronts:
                yield SplitStack(
                    url=front.url,
                    pids=_pids((*engines, *fronts)),
                    prefill=prefill.url,
                    decode=decode.url,
                    http=self._http,
                )

    def _plain(self, args: tuple[str, ...], logs: Path) -> list[LaunchSpec]:
        return [
            msgspec.structs.replace(
                spec,
                log=str(logs / f"vllm-{number}.log"),
                env={**spec.env, "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB)},
            )
            for number, spec in enumerate(plain_specs(self._run, count=NUM_INSTANCES, args=args))
        ]

    def _router(self, options: tuple[str, ...], logs: Path) -> LaunchSpec:
        python = self._peers / _ROUTER / "bin" / "python"
        if not python.exists():
            raise ConfigError(f"{python} does not exist: `make bench-peers ARGS={_ROUTER}` builds it")
        port, metrics = free_ports(2)
        argv = (
            *(str(python.absolute()), "-m", "vllm_router.launch_router", "--host", LOOPBACK, "--port", str(port)),
            *("--prometheus-port", str(metrics), "--log-level", "warning", *options),
        )
        return _spec(_ROUTER, argv=argv, port=port, logs=logs)

    def _nixl_front(self, system: NixlSystem, prefill: str, decode: str, logs: Path) -> LaunchSpec:
        if not system.bidirectional:
            servers = ("--prefill", prefill, "--decode", decode)
            return self._router(("--vllm-pd-disaggregation", "--kv-connector", "nixl", *servers), logs)
        port = free_ports(1)[0]
        argv = (sys.executable, "-m", _PROXY, str(port), prefill, decode)
        return _spec("nixl-proxy", argv=argv, port=port, logs=logs)


def _spec(name: str, *, argv: tuple[str, ...], port: int, logs: Path) -> LaunchSpec:
    return LaunchSpec(
        instance=InstanceId(name),
        role=Role.COLOCATED,
        url=f"http://{LOOPBACK}:{port}",
        argv=argv,
        env={},
        cores=(),
        log=str(logs / f"{name}.log"),
        shared_memory="",
    )


def _with_nixl(spec: LaunchSpec, port: int, system: NixlSystem) -> LaunchSpec:
    """`port` is where the two ends tell each other of their memory."""
    connector = {
        "kv_connector": "NixlConnector",
        "kv_role": "kv_both",
        "kv_buffer_device": "cpu",
        "kv_connector_extra_config": {
            "bidirectional_kv_xfer": system.bidirectional,
            "kv_recompute_threshold": _READ_BACK_TOKENS,
        },
    }
    nixl = {
        "VLLM_NIXL_SIDE_CHANNEL_HOST": LOOPBACK,
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(port),
        "UCX_TLS": "sm,tcp,self",
    }
    argv = (*spec.argv, "--kv-transfer-config", msgspec.json.encode(connector).decode())
    return msgspec.structs.replace(spec, argv=argv, env={**spec.env, **nixl})


async def _calm_spinning_threads(pids: Sequence[int]) -> None:
    """Of servers that have nothing to do: a thread that uses a good part of a core even so only polls."""
    before = await asyncio.to_thread(helper_seconds, pids)
    await asyncio.sleep(_IDLE_S)
    after = await asyncio.to_thread(helper_seconds, pids)
    give_lowest_priority(
        thread for thread, spent in after.items() if spent - before.get(thread, spent) > _IDLE_S * _SPINNING
    )


def _pids(children: Sequence[Child[LaunchSpec]]) -> tuple[int, ...]:
    return tuple(child.pid for child in children)


def _keep_instance_logs(log: Path) -> None:
    """Those of `memserve serve` lie with the user's other runs and go with time."""
    if not log.exists():
        return  # it was never started
    for name in _INSTANCE_LOG.findall(log.read_text(encoding="utf-8", errors="replace")):
        if Path(name).exists():
            shutil.copy(name, log.parent)
