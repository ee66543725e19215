"""Tokens for routing: the same as the model's own template gives, or none at all, never an error."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from memserve.core.errors import ConfigError
from memserve.gateway.tokenization import Tokenization, load_tokenization

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
STRING_TEMPLATE = (
    "{% if tools %}TOOLS {{ tools | tojson }} {% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}CALL {{ c.function.arguments.x }}{% endfor %}</>{% endfor %}"
    "{% if enable_thinking %}THINK{% endif %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
PARTS_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}|{% endfor %}{% endfor %}"


def byte_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """A token a byte, so that tokens can be read back as text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = PreTrainedTokenizerFast(tokenizer_object=bare)
    made.chat_template = template
    return made


def read_back(tokens: bytes) -> str:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return "".join(alphabet[t] for t in np.frombuffer(tokens, dtype="<i4")).replace("\u0120", " ")


@pytest_asyncio.fixture(loop_scope="session")
async def strings() -> AsyncIterator[Tokenization]:
    made = Tokenization(byte_tokenizer(STRING_TEMPLATE))
    yield made
    made.close()


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


async def test_a_chat_is_rendered_with_its_template(strings: Tokenization) -> None:
    assert read_back(await strings.tokens(path=CHAT, body=user("hi"))) == "<user>hi</><assistant>"
    body = user("hi", add_generation_prompt=False)
    assert read_back(await strings.tokens(path=CHAT, body=body)) == "<user>hi</>"


async def test_text_parts_are_joined_for_a_template_that_takes_strings(strings: Tokenization) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert await strings.tokens(path=CHAT, body=user(parts)) == await strings.tokens(path=CHAT, body=user("a\nb"))


async def test_strings_become_parts_for_a_template_that_walks_over_parts() -> None:
    parts = Tokenization(byte_tokenizer(PARTS_TEMPLATE), num_threads=1)
    assert read_back(await parts.tokens(path=CHAT, body=user("a"))) == "<user>a|"
    parts.close()


async def test_tools_calls_and_template_arguments_enter_the_prompt(strings: Tokenization) -> None:
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"x": "deep"}'}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    body = {"messages": messages, "tools": tools, "chat_template_kwargs": {"enable_thinking": True}}
    text = read_back(await strings.tokens(path=CHAT, body=body))
    assert text.startswith('TOOLS [{"type": "function", "function": {"name": "f"')
    assert text.endswith("<assistant>CALL deep</>THINK<assistant>")


async def test_a_chat_of_any_length_gets_the_same_tokens(strings: Tokenization) -> None:
    for length in (10, 3_000, 30_000):
        for _ in range(2):
            tokens = await strings.tokens(path=CHAT, body=user("x" * length))
            assert read_back(tokens) == f"<user>{'x' * length}</><assistant>"


async def test_a_final_message_can_be_continued(strings: Tokenization) -> None:
    body = user("hi", add_generation_prompt=False, continue_final_message=True)
    assert read_back(await strings.tokens(path=CHAT, body=body)) == "<user>hi"


async def test_prompts_of_completions_are_text_or_tokens_or_the_first_of_a_list(strings: Tokenization) -> None:
    for prompt in ("ab", ["ab", "cd"]):
        assert read_back(await strings.tokens(path=TEXT, body={"prompt": prompt})) == "ab"
    for prompt in ([7, 8], [[7, 8], [9]]):
        tokens = await strings.tokens(path=TEXT, body={"prompt": prompt})
        assert np.frombuffer(tokens, dtype="<i4").tolist() == [7, 8]


UNTOLD: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {}),
    (CHAT, {"messages": 5}),
    (CHAT, {"messages": [5]}),
    (CHAT, {"messages": [{"content": "no role"}]}),
    (CHAT, user([{"type": "image_url", "image_url": {"url": "x"}}])),
    (CHAT, user("x", chat_template="{{ 1 }}")),
    (CHAT, user("x", chat_template_kwargs=[1])),
    (CHAT, user("x", tools=[5])),
    (CHAT, user("x", continue_final_message=True)),
    (CHAT, user("x", truncate_prompt_tokens=5)),
    (TEXT, {"prompt": None}),
    (TEXT, {"prompt": {}}),
    (TEXT, {"prompt": []}),
    (TEXT, {"prompt": [1.5]}),
    (TEXT, {"prompt": [2**40]}),
    (TEXT, {"prompt": [[]]}),
]


async def test_what_cannot_be_tokenised_has_no_tokens(strings: Tokenization) -> None:
    for path, body in UNTOLD:
        assert await strings.tokens(path=path, body=body) == b"", body


async def test_template_arguments_cannot_change_how_the_template_is_called(strings: Tokenization) -> None:
    forged = {"chat_template": "{{ 'forged' }}", "tokenize": False, "return_tensors": "pt", "return_dict": False}
    body = user("hi", chat_template_kwargs=forged)
    assert await strings.tokens(path=CHAT, body=body) == await strings.tokens(path=CHAT, body=user("hi"))


async def test_a_model_without_a_chat_template_is_routed_without_prefix() -> None:
    bare = Tokenization(byte_tokenizer(None), num_threads=1)
    assert await bare.tokens(path=CHAT, body=user("hi")) == b""
    assert read_back(await bare.tokens(path=TEXT, body={"prompt": "hi"})) == "hi"
    bare.close()


def test_a_model_without_a_tokenizer_is_a_configuration_error(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="no tokenizer"):
        load_tokenization(str(tmp_path))
