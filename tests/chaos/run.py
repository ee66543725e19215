"""Clusters under load while everything that can break is broken, one fault after the other.

python -m tests.chaos.run [--seconds 240] [--seed N] [--simulated] [--etcd] [--real] [--small] [--clients N]
    [--fault KIND] [--json FILE]

A cluster of simulated instances, one whose registry is in etcd, and one of real vLLM instances, or those that are
named. Everything is on loopback, and where the system lets it, in a mount namespace of its own, whose /dev/shm and
disk can be filled. The last line counts requests; the exit status is 0 when all were right and nothing is left.
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
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random

import msgspec
from tokenizers import Tokenizer

from memserve.bundled.model import bundled_model, cache_folder
from tests.chaos import leaks
from tests.chaos.cluster import ChaosCluster, Shape
from tests.chaos.conversations import AskedBefore, Conversations
from tests.chaos.faults import SHARED_MEMORY, Faults
from tests.chaos.load import Load
from tests.chaos.verdict import Verdict, say, show, tell, verdict, write_json
from tests.etcd_server import EtcdServer, etcd_server

_OWN_NAMESPACE = "CHAOS_NAMESPACE"
_SHARED_MEMORY_BYTES = 1 << 30
_DISK_BYTES = 160 << 20
_SITE = str(Path(__file__).parent / "site")
_SMALL = {"p0": "prefill", "d0": "decode"}
_LARGE = {"p0": "prefill", "p1": "prefill", "d0": "decode", "d1": "decode"}
_CALM_S = 2.0
_NUM_KNOWN = 10
_REAL_CLIENTS = 3
_MOST_SHOWN = 20


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What was typed, and where it happens."""

    seconds: float
    seed: int
    only: str
    """One kind of fault; "" for all."""
    is_small: bool
    num_clients: int
    folder: Path
    may_fill: bool


async def simulated(asked: Asked) -> Verdict:
    """Its registry in the gateway."""
    return await _simulated(asked, "simulated")


async def in_etcd(asked: Asked) -> Verdict:
    """The same with its registry in etcd, which is killed and stalled as well."""
    async with etcd_server(asked.folder) as etcd:
        return await _simulated(asked, "simulated, in etcd", etcd=etcd)


async def _simulated(asked: Asked, name: str, *, etcd: EtcdServer | None = None) -> Verdict:
    model = bundled_model(cache_folder(os.environ))
    shape = Shape(
        name=f"chaos{os.getpid()}",
        model=model,
        roles=_SMALL if asked.is_small else _LARGE,
        serve_args=("--dram", "24MiB", "--disk", f"{asked.folder / 'disk'}:4MiB", "--max-restarts", "100")
        + (("--registry", etcd.url) if etcd is not None else ()),
        engine_args=("--max-model-len", "512"),
        site=_SITE,
        start_s=60.0,
    )
    said = Conversations(Tokenizer.from_file(str(model / "tokenizer.json")), seed=asked.seed)
    cluster = ChaosCluster(shape, folder=asked.folder)
    load = Load(
        cluster, conversation=said.conversation, num_clients=asked.num_clients, seed=asked.seed, model=model.name
    )
    return await _suffer(asked, name, cluster, load, etcd=etcd)


async def real(asked: Asked) -> Verdict:
    model = bundled_model(cache_folder(os.environ))
    shape = Shape(
        name=f"chaos{os.getpid()}",
        model=model,
        roles=_SMALL,
        serve_args=("--dram", "96MiB", "--disk", f"{asked.folder / 'disk'}:64MiB", "--max-restarts", "100"),
        engine_args=("--max-model-len", "1024"),
        start_s=300.0,
    )
    said = AskedBefore(Tokenizer.from_file(str(model / "tokenizer.json")), seed=asked.seed)
    cluster = ChaosCluster(shape, folder=asked.folder)
    load = Load(
        cluster,
        conversation=said.conversation,
        num_clients=min(_REAL_CLIENTS, asked.num_clients),
        seed=asked.seed,
        model=model.name,
    )

    async def ask() -> None:
        await said.ask(cluster.http, cluster.url, model=model.name, count=_NUM_KNOWN)

    return await _suffer(asked, "real", cluster, load, before=ask)


async def _nothing() -> None:
    pass


async def _suffer(
    asked: Asked,
    name: str,
    cluster: ChaosCluster,
    load: Load,
    *,
    before: Callable[[], Awaitable[None]] = _nothing,
    etcd: EtcdServer | None = None,
) -> Verdict:
    """A cluster from its start to its end, with load on it and faults in it."""
    disk, random = asked.folder / "disk", Random(f"{asked.seed}/faults")
    faults = Faults(cluster, random=random, disk=disk, may_fill=asked.may_fill, only=asked.only, etcd=etcd)
    began = time.monotonic()
    leaked = []
    try:
        await cluster.start()
        await before()
        say(f"{name}: up after {time.monotonic() - began:.0f} s, logs in {asked.folder}")
        asking = asyncio.create_task(load.run())
        try:
            await asyncio.sleep(min(_CALM_S, asked.seconds / 4))
            await faults.run(seconds=asked.seconds)
        finally:
            load.stop()
            await asking
        leaked += await leaks.held(cluster)
    finally:
        await cluster.stop()
    leaked += await leaks.left(cluster)
    for one in [one for one in load.ended if one.why][:_MOST_SHOWN]:
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
                command = ["unshare", flags, sys.executable, "-m", "tests.chaos.run", *sys.argv[1:]]
                os.execvp(command[0], command)  # noqa: S606
    return False


def _mount(place: Path, size: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "chaos", str(place)], check=True)


@contextlib.contextmanager
def _disk_in(folder: Path, *, is_own: bool) -> Iterator[None]:
    """A folder for the disk tiers, with a file system of its own where it may be filled."""
    place = folder / "disk"
    place.mkdir()
    if is_own:
        _mount(place, _DISK_BYTES)
    try:
        yield
    finally:
        if is_own:
            subprocess.run(["umount", str(place)], check=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=240.0, help="of faults, for each cluster")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--simulated", action="store_true", help="the simulated cluster only")
    parser.add_argument("--etcd", action="store_true", help="the simulated cluster in etcd only")
    parser.add_argument("--real", action="store_true", help="the cluster of real vLLM instances only")
    parser.add_argument("--small", action="store_true", help="two simulated instances in place of four")
    parser.add_argument("--clients", type=int, default=12, help="of the simulated cluster")
    parser.add_argument("--fault", default="", help='this one alone, e.g. "cut off"')
    parser.add_argument("--json", type=Path, help="write the counts by fault")
    return parser.parse_args()


def main() -> None:
    typed = _options()
    logging.basicConfig(level=logging.ERROR)
    is_own = _enter_own_namespace()
    is_all = not (typed.simulated or typed.etcd or typed.real)
    verdicts = []
    parts = ((simulated, typed.simulated), (in_etcd, typed.etcd), (real, typed.real))
    for part, is_wanted in parts:
        if not is_wanted and not is_all:
            continue
        if part is in_etcd and shutil.which("etcd") is None:
            say("not run: a cluster in etcd, which is not installed (apt install etcd-server)")
            continue
        folder = Path(tempfile.mkdtemp(prefix="memserve-chaos-"))
        asked = Asked(
            seconds=typed.seconds,
            seed=typed.seed,
            only=typed.fault,
            is_small=typed.small,
            num_clients=typed.clients,
            folder=folder,
            may_fill=is_own,
        )
        with _disk_in(folder, is_own=is_own):
            found = asyncio.run(part(asked))
        say(show(found))
        verdicts.append(found)
        if found.is_well:
            shutil.rmtree(folder)
    if typed.json:
        write_json(typed.json, verdicts, seed=typed.seed)
    say(tell(verdicts))
    sys.exit(0 if all(v.is_well for v in verdicts) else 1)


if __name__ == "__main__":
    main()
