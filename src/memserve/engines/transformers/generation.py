"""`generate` with memory: what a pool holds of the prompt is restored, the rest computed, all of it saved."""

import inspect
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from memserve.core.errors import ConfigError, InvalidTokens
from memserve.engines.transformers.store import KvStore
from memserve.wire.identity import Namespace

_NEEDED_SETTINGS: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "prefill_chunk_size": None,  # chunks start at the first token, restored or not
    "token_healing": False,  # changes the prompt after its prefix was restored
}


def generate(
    model: PreTrainedModel, input_ids: torch.Tensor, store: KvStore, *, namespace: Namespace = b"", **settings: Any
) -> Any:
    """What `model.generate(input_ids, **settings)` returns, for one prompt of shape [1, tokens] without padding.

    The prompt and the answer are saved for the next call, in whole blocks. `settings` say how to generate; what
    would change the KV itself (embeddings, images, positions, a mask) is refused with ConfigError, because it
    is no part of the tokens by which KV is found. Raises InvalidTokens for another shape.
    """
    _check_settings(model, settings)
    if input_ids.ndim != 2 or input_ids.shape[0] != 1 or input_ids.shape[1] < 1:
        raise InvalidTokens(f"input_ids of shape {tuple(input_ids.shape)}: give one prompt, [1, at least 1 token]")
    prompt = input_ids[0].cpu().numpy()
    # The last token is always computed: its logits give the first new one.
    cache, _ = store.restore(prompt[:-1], namespace=namespace)
    output = model.generate(
        input_ids, attention_mask=torch.ones_like(input_ids), past_key_values=cache, use_cache=True, **settings
    )
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    store.save(sequences[0].cpu().numpy(), cache, namespace=namespace)
    return output


def _check_settings(model: PreTrainedModel, settings: dict[str, Any]) -> None:
    known = {*GenerationConfig().to_dict(), *inspect.signature(model.generate).parameters} - {"use_cache", "inputs"}
    foreign = sorted(set(settings) - known)
    if foreign:
        raise ConfigError(
            f"{', '.join(foreign)}: generate with a store takes settings of generation only; leave it out"
        )
    config = settings.get("generation_config") or model.generation_config
    for name, needed in _NEEDED_SETTINGS.items():
        value = settings.get(name, getattr(config, name, None))
        if value not in (None, needed):
            raise ConfigError(f"{name} = {value}: generate with a store needs {needed}")
