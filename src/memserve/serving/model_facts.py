"""What the gateway is told of the model whose answers it may have to continue.

Owns how that follows from the engines' options and the model's files; in doubt nothing is continued. Blocks.
"""

from collections.abc import Sequence

from memserve.gateway.detokenizer import Detokenizer
from memserve.gateway.served_model import ServedModel
from memserve.gateway.tokenization import Tokenization
from memserve.manager.engine_args import given, value_of

_CHANNEL_TOKEN = "<|channel|>"  # noqa: S105 - of the harmony format, which vLLM takes apart without being told to
_SHAPES_ANSWERS = ("--enable-force-include-usage", "--enable-per-request-metrics", "--tokenizer", "--tokenizer-mode")
_NO_GENERATION_CONFIG = "vllm"


def served_model(model: str, engine_args: Sequence[str], tokenization: Tokenization) -> ServedModel:
    """`model` as vLLM takes it, `engine_args` as the instances are started with."""
    detokenizer = None if given(engine_args, *_SHAPES_ANSWERS) else tokenization.detokenizer
    return ServedModel(
        detokenizer=detokenizer,
        has_plain_chats=not given(engine_args, "--reasoning-parser") and not _speaks_in_channels(detokenizer),
        has_output_bound=_has_output_bound(model, engine_args),
    )


def _speaks_in_channels(detokenizer: Detokenizer | None) -> bool:
    return detokenizer is not None and detokenizer.knows(_CHANNEL_TOKEN)


def _has_output_bound(model: str, engine_args: Sequence[str]) -> bool:
    """vLLM takes max_new_tokens of the generation config for answers without max_tokens."""
    from transformers import GenerationConfig  # noqa: PLC0415 - takes seconds; instances start meanwhile

    if given(engine_args, "--override-generation-config"):
        return True
    chosen = value_of(engine_args, "--generation-config")
    if chosen is not None:
        return chosen != _NO_GENERATION_CONFIG
    try:
        return GenerationConfig.from_pretrained(model).max_new_tokens is not None
    except OSError:
        return False  # there is no such file, and vLLM goes without
