"""Whether a model's answers can be continued follows from its files and the engines' options."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from memserve.gateway.request_body import parse
from memserve.gateway.served_model import ServedModel
from memserve.gateway.tokenization import Tokenization
from memserve.serving.model_facts import served_model

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASKED = {CHAT: b'{"messages": [{"role": "user", "content": "hi"}]}', TEXT: b'{"prompt": "hi"}'}


def model_of(folder: Path, *engine_args: str, extra: str = "<x>") -> ServedModel:
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), extra]
    bare = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenization = Tokenization(PreTrainedTokenizerFast(tokenizer_object=bare), num_threads=1)
    tokenization.close()
    return served_model(str(folder), engine_args, tokenization)


def continued(model: ServedModel) -> list[str]:
    return [path for path, body in ASKED.items() if model.plan(parse(body), path=path) is not None]


def test_answers_of_a_usual_model_are_continued(tmp_path: Path) -> None:
    assert continued(model_of(tmp_path)) == [CHAT, TEXT]
    assert continued(model_of(tmp_path, "--generation-config", "vllm")) == [CHAT, TEXT]


def test_chats_of_which_the_engine_takes_reasoning_out_are_not(tmp_path: Path) -> None:
    assert continued(model_of(tmp_path, "--reasoning-parser=deepseek_r1")) == [TEXT]
    assert continued(model_of(tmp_path, extra="<|channel|>")) == [TEXT]


@pytest.mark.parametrize("args", [("--override-generation-config", "{}"), ("--generation-config=other",)])
def test_where_the_engine_may_bound_answers_by_itself_only_bounded_ones_are(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    assert continued(model_of(tmp_path, *args)) == [TEXT]


def test_a_bound_in_the_models_files_counts(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": 9}))
    assert continued(model_of(tmp_path)) == [TEXT]
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.5}))
    assert continued(model_of(tmp_path)) == [CHAT, TEXT]


def test_engines_that_answer_in_a_form_of_their_own_are_not_followed(tmp_path: Path) -> None:
    assert continued(model_of(tmp_path, "--enable-force-include-usage")) == []


def test_without_a_tokenizer_of_the_library_nothing_is() -> None:
    assert continued(ServedModel(detokenizer=None)) == []
