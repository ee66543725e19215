"""Makes the virtual environments of the systems that `memserve bench` compares with, under .venv-bench/.

Owns what each peer needs for the measured part: the peer itself without its requirements, then the few
packages that its imports ask for. A peer that cannot be installed is reported and the others go on; the
benchmark then reports it as missing. Runs on the machine's own Python with the standard library only.

    python3 scripts/bench_peers.py [NAME ...]
"""

import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-bench"
TORCH = "torch==2.13.0"
"""The CPU build where pip finds one, see docs/decisions/0002."""
IMPORTS = (
    "aiohttp",
    "msgspec",
    "numpy",
    "psutil",
    "pyyaml",
    "pyzmq",
    "requests",
    "transformers",
)
"""What both SGLang and LMCache import before anything else."""


@dataclass(frozen=True)
class Peer:
    """One environment: `alone` is installed without requirements, `imports` with theirs, before it."""

    name: str
    alone: tuple[str, ...]
    check: str
    """Statement that fails unless the measured part can be imported."""
    imports: tuple[str, ...] = ("numpy",)


PEERS = (
    Peer("dynamo", ("ai-dynamo-runtime==1.6.1",), "from dynamo._core import RadixTree"),
    Peer(
        "sglang",
        ("sglang==0.5.23", "torchvision==0.28.0"),
        "from sglang.srt.mem_cache.radix_cache import RadixCache",
        (
            TORCH,
            *IMPORTS,
            *("apache-tvm-ffi", "compressed-tensors", "dill", "gguf", "ipython", "loguru", "orjson", "packaging"),
            *("pillow", "pybase64", "pydantic", "sentencepiece", "starlette", "tqdm"),
            *(("triton",) if sys.platform == "linux" else ()),
        ),
    ),
    Peer(
        "lmcache",
        ("lmcache==0.5.6",),
        "from lmcache.v1.cache_engine import LMCacheEngineBuilder",
        (
            TORCH,
            *IMPORTS,
            *("aiofile", "cachetools", "cryptography", "numba", "prometheus-client", "py-cpuinfo", "sortedcontainers"),
        ),
    ),
    Peer("nixl", ("nixl==1.5.1", "nixl-cu12==1.5.1"), "from nixl._api import nixl_agent"),
    Peer(
        "mooncake",
        ("mooncake-transfer-engine-non-cuda==0.3.13",),
        "from mooncake.engine import TransferEngine",
    ),
    Peer(
        "vllm-router",
        ("vllm-router==0.1.17",),
        "import vllm_router.launch_router",
        ("aiohttp", "fastapi", "orjson", "requests", "setproctitle", "uvicorn"),
    ),
    Peer(
        "sglang-router",
        ("sglang-router==0.3.2",),
        "import sglang_router.launch_router",
        ("aiohttp", "fastapi", "orjson", "requests", "setproctitle", "uvicorn"),
    ),
)


def main(names: Sequence[str]) -> int:
    """0 when all that were asked for are ready."""
    unknown = set(names) - {peer.name for peer in PEERS}
    if unknown:
        sys.stderr.write(f"no such peer: {', '.join(sorted(unknown))}; there are {[peer.name for peer in PEERS]}\n")
        return 2
    return max([_make(peer) for peer in PEERS if not names or peer.name in names], default=0)


def _make(peer: Peer) -> int:
    sys.stdout.write(f"  {peer.name} ... ")
    sys.stdout.flush()
    folder = FOLDER / peer.name
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        if not _works(python, peer):
            _run(python, "-m", "pip", "install", "--quiet", *peer.imports)
            _run(python, "-m", "pip", "install", "--quiet", "--no-deps", *peer.alone)
        _lead_to_memserve(python)
        _run(python, "-c", peer.check)
    except (subprocess.CalledProcessError, OSError) as error:
        said = getattr(error, "stderr", None) or str(error)
        sys.stdout.write(f"missing: {said.strip().splitlines()[-1]}\n")
        return 1
    sys.stdout.write("ready\n")
    return 0


def _works(python: Path, peer: Peer) -> bool:
    return subprocess.run((python, "-c", peer.check), capture_output=True, check=False).returncode == 0


def _run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _lead_to_memserve(python: Path) -> None:
    """The child programs are memserve's own: put this source tree on the environment's path."""
    (site,) = _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").split("\n")[:1]
    (Path(site) / "memserve-bench.pth").write_text(f"{ROOT / 'src'}\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
