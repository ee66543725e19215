"""What must agree before a model may read KV that another process has saved."""

import hashlib
import json

import torch
import transformers
from transformers import PreTrainedModel

from memserve.engines.transformers.layout import layout_of
from memserve.wire.identity import KvIdentity

_SAMPLES_PER_TENSOR = 16
_PASSING_KEYS = ("_name_or_path", "_model_name_or_path", "architectures", "dtype", "transformers_version", "use_cache")
"""Parts of a configuration that say where a model came from or how it runs, and nothing about its KV."""


def kv_identity(model: PreTrainedModel, *, block_size: int) -> KvIdentity:
    """Identity for a pool that keeps this model's KV in blocks of `block_size` tokens.

    The same in every process and on every device for the same weights in the same dtype. Weights that change
    later (training, a merged adapter) need a new pool; adapters switched at run time need their own namespace.
    """
    layout = layout_of(model.config, dtype=model.dtype, block_size=block_size)
    return KvIdentity(
        model=_digest(model),
        dtype=layout.dtype,
        engine=f"transformers-{transformers.__version__}",
        backend="cache/layer-kv-head-token-dim",
        block_size=block_size,
        block_bytes=layout.block_bytes,
        num_layers=layout.num_layers,
    )


def _digest(model: PreTrainedModel) -> str:
    """Of the configuration and of values sampled from every tensor of the weights."""
    config = {key: value for key, value in model.config.to_dict().items() if key not in _PASSING_KEYS}
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(_sample(tensor))
    return digest.hexdigest()


def _sample(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    values = flat[:: max(1, len(flat) // _SAMPLES_PER_TENSOR)].cpu().contiguous()
    return bytes(values.view(torch.uint8).numpy())
