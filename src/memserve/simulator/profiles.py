"""Cost profiles that the package brings along, and rooflines for machines that are not at hand.

Owns the folder `profiles/`: plain JSON files, each with the source of its numbers. A roofline is what
arithmetic and bandwidth allow at a stated efficiency; it is a bound with an assumption, not a measurement.
"""

from importlib import resources
from pathlib import Path

import msgspec

from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import (
    CostProfile,
    DecodeTerms,
    PathTerms,
    PrefillTerms,
    ProfileIdentity,
    decode_profile,
)

_FOLDER = resources.files("memserve.simulator") / "profiles"


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """A dense transformer."""

    name: str
    num_parameters: float
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    bytes_per_value: int = 2

    @property
    def kv_bytes_per_token(self) -> int:
        """K and V of all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.bytes_per_value

    @property
    def flops_per_token(self) -> float:
        """Of the weights: a multiplication and an addition each."""
        return 2 * self.num_parameters

    @property
    def flops_per_pair(self) -> float:
        """Of attention: scores and weighted sum, a multiplication and an addition each."""
        return 4 * self.num_layers * self.num_heads * self.head_dim


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """One instance's devices together with what of their peaks is taken to be reached."""

    name: str
    num_devices: int
    flops_per_s: float
    """Dense peak of one device at the model's precision."""
    memory_bytes: float
    """Of one device."""
    memory_bytes_per_s: float
    host_bytes_per_s: float
    """Host memory to one device."""
    peer_bytes_per_s: float
    """One instance to another."""
    memory_path_bytes_per_s: float
    """One instance to a memory instance."""
    compute_efficiency: float
    memory_efficiency: float
    usable_memory: float
    """Share of the devices' memory that weights and KV may take together."""
    prefill_overhead_s: float
    """Launches and the all-reduces of one forward pass."""
    decode_overhead_s: float
    path_latency_s: float = 50e-6


def roofline(model: ModelShape, hardware: Hardware, *, engine: str, source: str) -> CostProfile:
    """What this model costs on this hardware by arithmetic and bandwidth alone."""
    flops_per_s = hardware.num_devices * hardware.flops_per_s * hardware.compute_efficiency
    bytes_per_s = hardware.num_devices * hardware.memory_bytes_per_s * hardware.memory_efficiency
    weight_bytes = model.num_parameters * model.bytes_per_value
    kv_bytes = hardware.num_devices * hardware.memory_bytes * hardware.usable_memory - weight_bytes
    if kv_bytes < model.kv_bytes_per_token:
        raise ConfigError(f"{model.name} leaves no room for KV on {hardware.name}: take more devices")
    read_weights_s = weight_bytes / bytes_per_s
    return CostProfile(
        identity=ProfileIdentity(model=model.name, engine=engine, machine=hardware.name),
        source=source,
        prefill=PrefillTerms(
            fixed_s=hardware.prefill_overhead_s + read_weights_s,
            per_token_s=model.flops_per_token / flops_per_s,
            per_pair_s=model.flops_per_pair / flops_per_s,
            per_cached_token_s=model.kv_bytes_per_token / bytes_per_s,
        ),
        decode=DecodeTerms(
            fixed_s=hardware.decode_overhead_s + read_weights_s,
            per_sequence_s=model.flops_per_token / flops_per_s,
            per_context_token_s=model.kv_bytes_per_token / bytes_per_s,
        ),
        paths={
            "dram": PathTerms(
                latency_s=hardware.path_latency_s, bytes_per_s=hardware.num_devices * hardware.host_bytes_per_s
            ),
            "peer": PathTerms(latency_s=hardware.path_latency_s, bytes_per_s=hardware.peer_bytes_per_s),
            "memory": PathTerms(latency_s=hardware.path_latency_s, bytes_per_s=hardware.memory_path_bytes_per_s),
        },
        kv_bytes_per_token=model.kv_bytes_per_token,
        kv_capacity_tokens=int(kv_bytes // model.kv_bytes_per_token),
    )


LLAMA2_13B = ModelShape(
    name="Llama2-13B", num_parameters=13.02e9, num_layers=40, num_heads=40, num_kv_heads=40, head_dim=128
)
"""Touvron et al., arXiv 2307.09288: 40 layers, hidden size 5120, 40 heads, no grouped queries."""

H800_TP2 = Hardware(
    name="2x H800 SXM 80GB",
    num_devices=2,
    flops_per_s=989e12,
    memory_bytes=80e9,
    memory_bytes_per_s=3.35e12,
    host_bytes_per_s=50e9,
    peer_bytes_per_s=320e9,
    memory_path_bytes_per_s=80e9,
    compute_efficiency=0.5,
    memory_efficiency=0.7,
    usable_memory=0.9,
    prefill_overhead_s=0.005,
    decode_overhead_s=0.003,
)
"""NVIDIA's data sheet of the H100 SXM, whose compute and HBM the H800 shares: 989 TFLOP/s dense FP16, 3.35 TB/s,
PCIe 5 x16 (64 GB/s, 50 taken); NVLink cut to 400 GB/s (80 % taken); a 400 Gb/s network
card a GPU, as in a DGX H100 (80 % taken). The efficiencies and overheads are assumed."""


H100_TP2 = msgspec.structs.replace(H800_TP2, name="2x H100 SXM 80GB", peer_bytes_per_s=720e9)
"""NVIDIA's data sheet of the H100 SXM; NVLink 900 GB/s, 80 % taken. Otherwise as the H800."""

H200_TP2 = msgspec.structs.replace(H100_TP2, name="2x H200 SXM 141GB", memory_bytes=141e9, memory_bytes_per_s=4.8e12)
"""NVIDIA's data sheet of the H200 SXM: 141 GB of HBM3e at 4.8 TB/s. Otherwise as the H100."""

A100_TP2 = msgspec.structs.replace(
    H800_TP2,
    name="2x A100 SXM 80GB",
    flops_per_s=312e12,
    memory_bytes_per_s=2.039e12,
    host_bytes_per_s=25e9,
    peer_bytes_per_s=480e9,
    memory_path_bytes_per_s=40e9,
)
"""NVIDIA's data sheet of the A100 SXM 80GB: 312 TFLOP/s dense FP16, 2.039 TB/s, PCIe 4 x16 (32 GB/s, 25 taken),
NVLink 600 GB/s (80 % taken); a 200 Gb/s network card a GPU, as in a DGX A100.
Efficiencies and overheads as for the H800."""


def profile_names() -> tuple[str, ...]:
    """Those that the package brings along."""
    return tuple(sorted(f.name.removesuffix(".json") for f in _FOLDER.iterdir() if f.name.endswith(".json")))


def load_profile(name: str, *, expected: ProfileIdentity | None = None) -> CostProfile:
    """By the name of one that comes along, or by the path of a file. Raises ConfigError."""
    if name in profile_names():
        return decode_profile((_FOLDER / f"{name}.json").read_bytes(), where=name, expected=expected)
    try:
        data = Path(name).read_bytes()
    except OSError as error:
        known = ", ".join(profile_names())
        raise ConfigError(f'no cost profile "{name}" ({error.strerror}): name a file or one of {known}') from error
    return decode_profile(data, where=name, expected=expected)
