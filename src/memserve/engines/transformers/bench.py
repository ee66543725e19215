"""Time to the first token: KV restored from each tier of a pool against KV computed again.

python -m memserve.engines.transformers.bench --json FILE [--shape smollm2|7b|13b] [--device cpu|cuda] [--max-tokens N]
    [--tiers hbm,dram,disk] [--folder DIR]

Weights are random: the time depends on shapes only. Restoring, computing and saving alternate in one process
after a warm-up of each. On the CPU it runs in float32, on CUDA in bfloat16.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, PreTrainedModel

import memserve
from memserve.config import DiskPlace, Watermarks
from memserve.core.enums import Tier
from memserve.core.ids import block_tier
from memserve.engines.device.arena import DeviceArena
from memserve.engines.transformers.identity import kv_identity
from memserve.engines.transformers.store import KvStore
from memserve.instance.mempool import MemPool

_BLOCK_SIZE = 16
_SHORTEST = 2 * _BLOCK_SIZE
_REPEAT = 5
_DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
_SHAPES = {
    "smollm2": {"hidden": 576, "inner": 1536, "layers": 30, "heads": 9, "kv_heads": 3, "vocabulary": 49152},
    "7b": {"hidden": 4096, "inner": 11008, "layers": 32, "heads": 32, "kv_heads": 32, "vocabulary": 32000},
    "13b": {"hidden": 5120, "inner": 13824, "layers": 40, "heads": 40, "kv_heads": 40, "vocabulary": 32000},
}
"""SmolLM2-135M, Llama-2-7B and Llama-2-13B."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One operation at one prompt length."""

    system: str
    version: str
    operation: str
    """first-token-restored, first-token-recomputed, restore or save; the last two without any computing."""
    path: str
    input: str
    tokens: int
    blocks: int
    """Restored or saved ones; 0 where nothing is cached."""
    size_bytes: int
    count: int
    p50_us: float
    min_us: float
    max_us: float
    gb_per_s: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    device: str
    dtype: str
    torch: str
    block_bytes: int
    crossover_tokens: dict[str, int | None]
    """By tier, the shortest measured prompt from which on restoring is faster at every length; None: it never is."""
    same_first_token: bool
    """Whether both ways gave the same first token at every length."""
    results: list[Measurement]


class Bench:
    """One model, one store with the longest prompt saved, and the times measured so far."""

    def __init__(
        self, *, shape: str, model: PreTrainedModel, pool: MemPool, arena: DeviceArena | None, max_tokens: int
    ) -> None:
        self.results: list[Measurement] = []
        self.same_first_token = True
        self._shape = shape
        self._model = model
        self._pool = pool
        self._store = KvStore(pool, model, arena=arena)
        self._home = Tier.DRAM if arena is None else Tier.HBM
        generator = torch.Generator().manual_seed(0)
        self._ids = torch.randint(model.config.vocab_size, (1, max_tokens), generator=generator).to(model.device)

    def save_longest(self) -> None:
        """Compute the longest prompt once; save it several times, timed."""
        cache = DynamicCache(config=self._model.config)
        self._first_token(self._ids, cache)
        tokens = self._ids[0].cpu().numpy()
        times = []
        for _ in range(_REPEAT):
            self._pool.delete(tokens[:_BLOCK_SIZE])
            begin = time.perf_counter()
            saved = self._store.save(tokens, cache)
            times.append(time.perf_counter() - begin)
        self._record("save", self._home.name.lower(), len(tokens), saved // _BLOCK_SIZE, times)

    def compare(self, num_tokens: int, tiers: Sequence[Tier]) -> None:
        """All ways to the first token of one prompt, in turn: from each tier, and computed."""
        ids = self._ids[:, :num_tokens]
        prefix = ids[0, :-1].cpu().numpy()
        restored: dict[Tier, list[float]] = {tier: [] for tier in tiers}
        copied: dict[Tier, list[float]] = {tier: [] for tier in tiers}
        recomputed: list[float] = []
        for _ in range(_REPEAT + 1):
            firsts = set()
            for tier in tiers:
                self._move(prefix, tier)
                begin = time.perf_counter()
                cache, num_restored = self._store.restore(prefix)
                self._wait()
                copied[tier].append(time.perf_counter() - begin)
                firsts.add(self._first_token(ids[:, num_restored:], cache))
                restored[tier].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            firsts.add(self._first_token(ids, DynamicCache(config=self._model.config)))
            recomputed.append(time.perf_counter() - begin)
            self.same_first_token &= len(firsts) == 1
        blocks = num_restored // _BLOCK_SIZE
        for tier in tiers:
            self._record("first-token-restored", tier.name.lower(), num_tokens, blocks, restored[tier][1:])
            self._record("restore", tier.name.lower(), num_tokens, blocks, copied[tier][1:])
        self._record("first-token-recomputed", "compute", num_tokens, 0, recomputed[1:])

    def _move(self, prefix: np.ndarray[Any, Any], tier: Tier) -> None:
        """All blocks of a prompt to one tier."""
        with self._pool.match(prefix) as found:
            elsewhere = tuple(block for block in found.addresses.blocks if block_tier(block) is not tier)
        if elsewhere:
            self._pool.swap_in(msgspec.structs.replace(found.addresses, blocks=elsewhere), target=tier)

    def _first_token(self, ids: torch.Tensor, cache: DynamicCache) -> int:
        with torch.no_grad():
            logits = self._model(ids, past_key_values=cache, logits_to_keep=1).logits
        return int(logits[0, -1].argmax().item())

    def _wait(self) -> None:
        """Let copies to the device end; on the CPU there is nothing to wait for."""
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()

    def _record(self, operation: str, path: str, num_tokens: int, blocks: int, times: Sequence[float]) -> None:
        ours = operation != "first-token-recomputed"
        size = blocks * self._pool.info.identity.block_bytes
        middle = statistics.median(times)
        measured = Measurement(
            system="memserve" if ours else "transformers",
            version=memserve.__version__ if ours else transformers.__version__,
            operation=operation,
            path=path,
            input=self._shape,
            tokens=num_tokens,
            blocks=blocks,
            size_bytes=size,
            count=len(times),
            p50_us=middle * 1e6,
            min_us=min(times) * 1e6,
            max_us=max(times) * 1e6,
            gb_per_s=size / middle / 1e9 if operation in {"restore", "save"} else None,
        )
        self.results.append(measured)
        sys.stdout.write(
            f"{operation:24} {path:8} {num_tokens:6} tokens {measured.p50_us / 1e3:10.1f} ms"
            f" ({measured.min_us / 1e3:.1f} to {measured.max_us / 1e3:.1f})\n"
        )
        sys.stdout.flush()


def crossover(results: Sequence[Measurement], tier: Tier) -> int | None:
    """Shortest prompt length from which on restoring from this tier has the smaller median."""
    restored = {
        m.tokens: m.p50_us for m in results if m.operation == "first-token-restored" and m.path == tier.name.lower()
    }
    recomputed = {m.tokens: m.p50_us for m in results if m.operation == "first-token-recomputed"}
    found = None
    for tokens in sorted(restored, reverse=True):
        if restored[tokens] >= recomputed[tokens]:
            break
        found = tokens
    return found


def random_model(shape: str, device: str, max_tokens: int) -> PreTrainedModel:
    """A Llama of this shape with random weights, made on the device."""
    sizes = _SHAPES[shape]
    config = LlamaConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["hidden"],
        intermediate_size=sizes["inner"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        max_position_embeddings=max_tokens,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=_DTYPES[device]).eval()


def measure(*, shape: str, device: str, max_tokens: int, tiers: Sequence[Tier], folder: Path) -> Report:
    """All lengths from 32 tokens to `max_tokens`, each twice the one before; `folder` takes the disk tier."""
    model = random_model(shape, device, max_tokens)
    identity = kv_identity(model, block_size=_BLOCK_SIZE)
    num_blocks, size = max_tokens // _BLOCK_SIZE, identity.block_bytes
    arena = None
    if Tier.HBM in tiers:
        arena = DeviceArena(num_blocks=num_blocks, block_bytes=size, device=torch.device(device))
    slot_bytes = -(-size // 4096) * 4096 + 2 * 4096
    with MemPool(
        instance="bench-restore",
        block_size=_BLOCK_SIZE,
        block_bytes=size,
        dram_bytes=size * (num_blocks + num_blocks // 16 + 16),
        hbm=arena,
        identity=identity,
        cluster="bench-restore",
        disk=DiskPlace(folder=str(folder), size_bytes=(num_blocks + 1) * slot_bytes) if Tier.DISK in tiers else None,
        marks=Watermarks(low=0.98, high=0.99),  # blocks move when the benchmark says so
    ) as pool:
        bench = Bench(shape=shape, model=model, pool=pool, arena=arena, max_tokens=max_tokens)
        bench.save_longest()
        num_tokens = _SHORTEST
        while num_tokens <= max_tokens:
            bench.compare(num_tokens, tiers)
            num_tokens *= 2
    return Report(
        device=torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} {torch.get_num_threads()}T",
        dtype=identity.dtype,
        torch=str(torch.__version__),
        block_bytes=identity.block_bytes,
        crossover_tokens={tier.name.lower(): crossover(bench.results, tier) for tier in tiers},
        same_first_token=bench.same_first_token,
        results=bench.results,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to the first token, KV restored against KV computed again.")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where to write the results")
    parser.add_argument("--shape", choices=sorted(_SHAPES), default="smollm2")
    parser.add_argument("--device", choices=sorted(_DTYPES), default="cpu")
    parser.add_argument("--max-tokens", type=int, default=4096, help="longest prompt, default 4096")
    parser.add_argument("--tiers", default="dram", help="where to restore from, with commas: hbm, dram, disk")
    parser.add_argument("--folder", type=Path, help="where the disk tier lies, default a temporary folder")
    options = parser.parse_args()
    if options.max_tokens < _SHORTEST:
        parser.error(f"--max-tokens {options.max_tokens}: the shortest prompt measured has {_SHORTEST} tokens")
    names = {tier.name.lower(): tier for tier in Tier}
    if unknown := [name for name in options.tiers.split(",") if name not in names]:
        parser.error(f"--tiers {options.tiers}: {', '.join(unknown)} is none of {', '.join(names)}")
    with tempfile.TemporaryDirectory() as folder:
        report = measure(
            shape=options.shape,
            device=options.device,
            max_tokens=options.max_tokens,
            tiers=[names[name] for name in options.tiers.split(",")],
            folder=options.folder or Path(folder),
        )
    options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    for tier, num_tokens in report.crossover_tokens.items():
        since = f"is faster from {num_tokens} tokens on" if num_tokens else "is not faster at the longest prompt"
        sys.stdout.write(f"restoring from {tier} {since}\n")


if __name__ == "__main__":
    main()
