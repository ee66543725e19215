"""Clusters under load while everything that can break is broken, one fault after the other.

python -m tests.chaos.run [--seconds 240] [--seed N] [--simulated] [--real] [--fault KIND] [--json FILE]

A cluster of simulated instances and one of real vLLM instances, or the one that is named. Everything is on loopback.
The last line counts requests; the exit status is 0 when all were right and nothing is left.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from memserve.bundled.model import bundled_model, cache_folder
from tests.chaos import leaks
from tests.chaos.cluster import ChaosCluster, Shape
from tests.chaos.conversations import AskedBefore, Conversations
from tests.chaos.faults import SHARED_MEMORY, Faults
from tests.chaos.load import Load
from tests.chaos.verdict import Verdict, say, show, tell, verdict, write_json

_OWN_NAMESPACE = "CHAOS_NAMESPACE"
_SHARED_MEMORY_BYTES = 1 << 30
_DISK_BYTES = 160 << 20
_SITE = str(Path(__file__).parent / "site")
_CALM_S = 2.0
_NUM_KNOWN = 10


async def simulated(*, seconds: float, seed: int, folder: Path, may_fill: bool, only: str) -> Verdict:
    model = bundled_model(cache_folder(os.environ))
    shape = Shape(
        name=f"chaos{os.getpid()}",
        model=model,
        roles={"p0": "prefill", "p1": "prefill", "d0": "decode", "d1": "decode"},
        serve_args=("--dram", "24MiB", "--disk", f"{folder / 'disk'}:4MiB", "--max-restarts", "100"),
        engine_args=("--max-model-len", "512"),
        site=_SITE,
        start_s=60.0,
    )
    said = Conversations(Tokenizer.from_file(str(model / "tokenizer.json")), seed=seed)
    cluster = ChaosCluster(shape, folder=folder)
    load = Load(cluster, conversation=said.conversation, num_clients=12, seed=seed, model=model.name)
    return await _suffer("simulated", cluster, load, seconds=seconds, seed=seed, may_fill=may_fill, only=only)


async def real(*, seconds: float, seed: int, folder: Path, may_fill: bool, only: str) -> Verdict:
    model = bundled_model(cache_folder(os.environ))
    shape = Shape(
        name=f"chaos{os.getpid()}",
        model=model,
        roles={"p0": "prefill", "d0": "decode"},
        serve_args=("--dram", "96MiB", "--disk", f"{folder / 'disk'}:64MiB", "--max-restarts", "100"),
        engine_args=("--max-model-len", "1024"),
        start_s=300.0,
    )
    said = AskedBefore(Tokenizer.from_file(str(model / "tokenizer.json")), seed=seed)
    cluster = ChaosCluster(shape, folder=folder)
    load = Load(cluster, conversation=said.conversation, num_clients=3, seed=seed, model=model.name)

    async def ask() -> None:
        await said.ask(cluster.http, cluster.url, model=model.name, count=_NUM_KNOWN)

    return await _suffer("real", cluster, load, before=ask, seconds=seconds, seed=seed, may_fill=may_fill, only=only)


async def _nothing() -> None:
    pass


async def _suffer(
    name: str,
    cluster: ChaosCluster,
    load: Load,
    *,
    before: Callable[[], Awaitable[None]] = _nothing,
    seconds: float,
    seed: int,
    may_fill: bool,
    only: str,
) -> Verdict:
    """A cluster from its start to its end, with load on it and faults in it."""
    faults = Faults(
        cluster, random=Random(f"{seed}/faults"), disk=cluster.folder / "disk", may_fill=may_fill, only=only
    )
    began = time.monotonic()
    leaked = []
    try:
        await cluster.start()
        say(f"{name}: up after {time.monotonic() - began:.0f} s, log folder {cluster.folder}")
        await before()
        asking = asyncio.create_task(load.run())
        try:
            await asyncio.sleep(min(_CALM_S, seconds))
            await faults.run(seconds=seconds)
        finally:
            load.stop()
            await asking
        leaked += await leaks.held(cluster)
    finally:
        await cluster.stop()
    leaked += await leaks.left(cluster)
    for one in load.ended:
        if one.why:
            say(f"{one.verdict.upper()} {one.why}")
    return verdict(
        name,
        load.ended,
        faults.windows,
        seconds=time.monotonic() - began,
        leaked=leaked,
        failures=faults.failures,
        not_run=faults.not_run,
    )


def _enter_own_namespace() -> bool:
    """Whether /dev/shm and the disk may be filled without anybody else noticing: in a mount namespace of this run."""
    if _OWN_NAMESPACE in os.environ:
        _mount(SHARED_MEMORY, _SHARED_MEMORY_BYTES)
        return True
    for flags in ("-m", "-rm"):
        with contextlib.suppress(OSError):
            if subprocess.run(["unshare", flags, "true"], capture_output=True, check=False).returncode == 0:
                os.environ[_OWN_NAMESPACE] = "1"
                os.execvp("unshare", ["unshare", flags, sys.executable, "-m", "tests.chaos.run", *sys.argv[1:]])  # noqa: S606
    return False


def _mount(place: Path, size: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "chaos", str(place)], check=True)


@contextlib.contextmanager
def _folder(*, is_own: bool):
    """For logs and the disk tier, which gets a file system of its own where it may be filled."""
    folder = Path(tempfile.mkdtemp(prefix="memserve-chaos-"))
    (folder / "disk").mkdir()
    if is_own:
        _mount(folder / "disk", _DISK_BYTES)
    try:
        yield folder
    finally:
        if is_own:
            subprocess.run(["umount", str(folder / "disk")], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=240.0, help="of faults, for each cluster")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--simulated", action="store_true", help="the simulated cluster only")
    parser.add_argument("--real", action="store_true", help="the cluster of real vLLM instances only")
    parser.add_argument("--fault", default="", help='this one alone, e.g. "cut off"')
    parser.add_argument("--json", type=Path, help="write the counts by fault")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    is_own = _enter_own_namespace()
    both = not asked.simulated and not asked.real
    parts = [part for part, wanted in ((simulated, asked.simulated), (real, asked.real)) if wanted or both]
    verdicts = []
    for part in parts:
        with _folder(is_own=is_own) as folder:
            found = asyncio.run(
                part(seconds=asked.seconds, seed=asked.seed, folder=folder, may_fill=is_own, only=asked.fault)
            )
            say(show(found))
            verdicts.append(found)
        if found.is_well:
            shutil.rmtree(folder)
    if asked.json:
        write_json(asked.json, verdicts, seed=asked.seed)
    say(tell(verdicts))
    sys.exit(0 if all(v.is_well for v in verdicts) else 1)


if __name__ == "__main__":
    main()
