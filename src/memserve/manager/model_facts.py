"""What a model folder says about the model: heads, longest request, bytes of KV a token.

Reads config.json and the sizes of the weight files, never the weights. What cannot be told for certain
(another kind of attention, a missing field) is None, and whoever checks leaves it to the engine.
"""

from pathlib import Path
from typing import Any

import msgspec

from memserve.core.errors import ConfigError

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_DTYPE_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
_OTHER_ATTENTION = ("kv_lora_rank", "layer_types", "sliding_window", "attn_layer_period", "ssm_cfg", "mamba_d_state")
"""Fields of models that keep something else than K and V of every token in every layer."""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    num_heads: int | None
    num_kv_heads: int | None
    max_tokens: int | None
    """Longest request that the model was made for."""
    kv_elements: int | None
    """Numbers kept for each token, all layers and heads, K and V."""
    dtype: str
    """As config.json names it; "" when it does not."""
    weights_bytes: int
    """On disk."""

    def kv_token_bytes(self, dtype: str) -> int | None:
        """Bytes of KV a token in the engine's dtype; "auto" computes float32 models in 16 bits, as vLLM does."""
        name = self.dtype if dtype == "auto" else dtype
        size = 2 if dtype == "auto" and name == "float32" else _DTYPE_BYTES.get(name)
        return None if size is None or self.kv_elements is None else size * self.kv_elements

    def loaded_bytes(self, dtype: str) -> int:
        """Weights in memory when computed in `dtype`; as on disk when either size is not known."""
        stored, wanted = _DTYPE_BYTES.get(self.dtype), _DTYPE_BYTES.get(dtype)
        return self.weights_bytes * wanted // stored if stored and wanted else self.weights_bytes


def read_model_facts(folder: Path) -> ModelFacts:
    """Raises ConfigError when the folder holds no model that vLLM could load."""
    config = _read_config(folder)
    weights = [path for pattern in _WEIGHTS for path in folder.glob(pattern)]
    if not weights:
        raise ConfigError(
            f"model folder {folder} has a config.json but no weights ({', '.join(_WEIGHTS)}): "
            "download them too, or name another folder"
        )
    return model_facts(config, sum(path.stat().st_size for path in weights))


def model_facts(config: dict[str, Any], weights_bytes: int) -> ModelFacts:
    """From the fields of config.json; a multimodal model's text part counts."""
    text = config.get("text_config")
    fields = {**config, **text} if isinstance(text, dict) else config
    heads = _number(fields, "num_attention_heads")
    kv_heads = _number(fields, "num_key_value_heads") or heads
    dtype = fields.get("dtype", fields.get("torch_dtype", ""))
    return ModelFacts(
        num_heads=heads,
        num_kv_heads=kv_heads,
        max_tokens=_number(fields, "max_position_embeddings"),
        kv_elements=_kv_elements(fields, heads, kv_heads),
        dtype=dtype if isinstance(dtype, str) else "",
        weights_bytes=weights_bytes,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError as error:
        raise ConfigError(
            f"model folder {folder} has no config.json: name the folder that holds it and the weights"
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; download the model again") from error


def _kv_elements(fields: dict[str, Any], heads: int | None, kv_heads: int | None) -> int | None:
    if any(fields.get(name) for name in _OTHER_ATTENTION):
        return None
    layers, hidden = _number(fields, "num_hidden_layers"), _number(fields, "hidden_size")
    if layers is None or heads is None or kv_heads is None:
        return None
    head_dim = _number(fields, "head_dim") or (hidden // heads if hidden else None)
    return 2 * layers * kv_heads * head_dim if head_dim else None


def _number(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
