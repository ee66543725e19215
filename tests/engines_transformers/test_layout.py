"""Which models have KV that can be kept by prefix."""

import pytest
import torch
from transformers import MistralConfig, PreTrainedConfig, T5Config

from memserve.core.errors import ConfigError
from memserve.engines.transformers import layout_of
from tests.engines_transformers.tiny import tiny_config


def layout_bytes(config: PreTrainedConfig) -> int:
    return layout_of(config, dtype=torch.bfloat16, block_size=16).block_bytes


def test_a_block_is_as_large_as_its_tokens_k_and_v_in_all_layers() -> None:
    assert layout_bytes(tiny_config()) == 3 * 2 * 2 * 16 * 12 * 2


def test_a_head_dim_of_its_own_counts() -> None:
    assert layout_bytes(tiny_config(head_dim=32)) == 3 * 2 * 2 * 16 * 32 * 2


def test_a_sliding_window_is_refused_by_the_name_of_its_layers() -> None:
    with pytest.raises(ConfigError, match="DynamicSlidingWindowLayer"):
        layout_bytes(MistralConfig(sliding_window=128))


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="encoder True"):
        layout_bytes(T5Config())


def test_a_rope_that_moves_with_the_length_of_the_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rope \['dynamic'\]"):
        layout_bytes(tiny_config(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}))
