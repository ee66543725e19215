"""A Llama of a few kilobytes, the same in every process, and pools that fit it."""

import os

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from memserve.engines.transformers import kv_identity
from memserve.instance.mempool import MemPool

BLOCK_SIZE = 8
NEW_TOKENS = 12
VOCABULARY = 200


def tiny_config(**changes: object) -> LlamaConfig:
    settings: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.5,  # far from a tie between two tokens
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
    }
    return LlamaConfig(**{**settings, **changes})


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(tiny_config()).to(dtype).eval()


def prompt(length: int, seed: int = 0) -> torch.Tensor:
    """[1, length]; a shorter one is the start of a longer one of the same seed. Holds padding tokens, too."""
    tokens = torch.randint(0, VOCABULARY, (1, 400), generator=torch.Generator().manual_seed(seed))
    return tokens[:, :length]


def pool_for(
    model: LlamaForCausalLM, *, instance: str, cluster: str = "", num_blocks: int = 64, kind: type[MemPool] = MemPool
) -> MemPool:
    identity = kv_identity(model, block_size=BLOCK_SIZE)
    return kind(
        instance=instance,
        block_size=BLOCK_SIZE,
        block_bytes=identity.block_bytes,
        dram_bytes=num_blocks * identity.block_bytes,
        identity=identity,
        cluster=cluster or f"transformerstest{os.getpid()}",
    )
