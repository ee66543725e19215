"""What clients send to vLLM, one of each kind: the gateway must answer each as plain vLLM does."""

from typing import Any

import msgspec

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
STORY = "A lighthouse keeper counts ships every night and writes the number down in a long blue book. " * 3


class Asked(msgspec.Struct, frozen=True):
    name: str
    path: str
    body: dict[str, Any]
    stream: bool = False


def _chat(name: str, text: str = "Name three colours.", **fields: Any) -> Asked:
    messages = fields.pop("messages", [{"role": "user", "content": text}])
    body = {"messages": messages, "max_tokens": 8, "temperature": 0, **fields}
    return Asked(name, CHAT, body, bool(fields.get("stream")))


def _text(name: str, prompt: Any = STORY, **fields: Any) -> Asked:
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, **fields}
    return Asked(name, TEXT, body, bool(fields.get("stream")))


_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_NAMED = {"type": "function", "function": {"name": "weather"}}
_SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
_JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": _SCHEMA}}
_TALK = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "My name is Ada."},
    {"role": "assistant", "content": "Hello Ada."},
    {"role": "user", "content": "What is my name?"},
]
_TOOL_TALK = [
    {"role": "user", "content": "How is the weather in Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]
_IDS = list(range(1000, 1080))

CHATS = (
    _chat("a plain chat"),
    _chat("a conversation with a system prompt", messages=_TALK),
    _chat("text parts", messages=[{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}]),
    _chat("one token", max_tokens=1),
    _chat("max_completion_tokens", max_completion_tokens=3),
    _chat("both limits", max_completion_tokens=2, max_tokens=5),
    _chat("a stream", stream=True),
    _chat("a stream with usage", stream=True, stream_options={"include_usage": True}),
    _chat(
        "a stream with usage in every chunk",
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    ),
    _chat("a stream of one token", stream=True, max_tokens=1),
    _chat("a stream with log-probabilities", stream=True, logprobs=True, top_logprobs=2),
    _chat("a stream of two choices", stream=True, n=2, temperature=0.8, seed=7),
    _chat("a stream that stops", stream=True, stop=["e"], max_tokens=20),
    _chat("a stream with token ids", stream=True, return_token_ids=True),
    _chat("log-probabilities", logprobs=True),
    _chat("top log-probabilities", logprobs=True, top_logprobs=3),
    _chat("log-probabilities of none", logprobs=True, top_logprobs=0),
    _chat("two greedy choices", n=2),
    _chat("three seeded choices", n=3, temperature=0.7, seed=11),
    _chat("a seeded sample", temperature=0.9, seed=42),
    _chat("top p and top k", temperature=0.9, top_p=0.8, top_k=20, seed=3),
    _chat("min p", temperature=0.9, min_p=0.1, seed=3),
    _chat("penalties", frequency_penalty=0.5, presence_penalty=0.4, max_tokens=16),
    _chat("a repetition penalty", repetition_penalty=1.3, max_tokens=16),
    _chat("a stop string", stop="a", max_tokens=20),
    _chat("several stop strings, kept", stop=["o", "a"], include_stop_str_in_output=True, max_tokens=20),
    _chat("stop token ids", stop_token_ids=[28, 30, 198], max_tokens=20),
    _chat("at least so many tokens", min_tokens=6, max_tokens=10),
    _chat("past the end of the answer", ignore_eos=True, max_tokens=24),
    _chat("a logit bias", logit_bias={"28": 5.0}),
    _chat("bad words", bad_words=["red", "Red"]),
    _chat("allowed tokens", allowed_token_ids=[28, 29, 30, 198]),
    _chat("a salt", cache_salt="tenant-1"),
    _chat("a priority", priority=0),
    _chat("a user", user="someone"),
    _chat("special tokens kept", skip_special_tokens=False),
    _chat("token ids", return_token_ids=True),
    _chat("a JSON object", response_format={"type": "json_object"}, max_tokens=24),
    _chat("a JSON schema", response_format=_JSON_SCHEMA, max_tokens=24),
    _chat("a JSON schema, streamed", response_format=_JSON_SCHEMA, max_tokens=24, stream=True),
    _chat("a choice", structured_outputs={"choice": ["red", "green"]}),
    _chat("a regular expression", structured_outputs={"regex": "[0-9]{4}"}),
    _chat("a named tool", tools=[_WEATHER], tool_choice=_NAMED, max_tokens=24),
    _chat("a required tool", tools=[_WEATHER], tool_choice="required", max_tokens=48),
    _chat("tools that are not to be used", tools=[_WEATHER], tool_choice="none"),
    _chat("a tool's result", messages=_TOOL_TALK, tools=[_WEATHER], tool_choice="none"),
    _chat("an answer to be continued", messages=[*_TALK[:3]], add_generation_prompt=False, continue_final_message=True),
    _chat("an echo", messages=[*_TALK[:3]], add_generation_prompt=False, continue_final_message=True, echo=True),
    _chat("scores of the prompt", prompt_logprobs=1),
    _chat("no limit but the stop", stop=["."], max_tokens=None),
)  # fmt: skip
TEXTS = (
    _text("a text"),
    _text("a text, streamed", stream=True),
    _text("a text, streamed with usage", stream=True, stream_options={"include_usage": True}),
    _text("token ids as prompt", prompt=_IDS),
    _text("token ids as prompt, streamed", prompt=_IDS, stream=True, return_token_ids=True),
    _text("several prompts", prompt=["One two three", "Four five six"]),
    _text("several prompts of token ids", prompt=[_IDS, _IDS[::-1]]),
    _text("several prompts, streamed", prompt=["One two three", "Four five six"], stream=True),
    _text("text echoed", echo=True),
    _text("text echoed with scores", echo=True, logprobs=1),
    _text("nothing but the echo", echo=True, max_tokens=0),
    _text("text scores", logprobs=2),
    _text("text scores, streamed", logprobs=2, stream=True),
    _text("text, two choices", n=2, temperature=0.8, seed=5),
    _text("text with a suffix", suffix=" the end"),
    _text("text that stops", stop=["ship"], max_tokens=24),
    _text("text that stops, streamed", stop=["ship"], max_tokens=24, stream=True),
    _text("beams", n=2, use_beam_search=True),
    _text("a truncated prompt", truncate_prompt_tokens=20),
    _text("text with a salt", cache_salt="tenant-2"),
    _text("text by the default limit", max_tokens=None),
    _text("an empty text", prompt=""),
    _text("text of a regular expression", structured_outputs={"regex": "[a-c]{5}"}),
)
REFUSED = (
    _chat("no messages", messages=[]),
    _chat("an unknown role", messages=[{"role": "wizard", "content": "hi"}]),
    _chat("a negative limit", max_tokens=-1),
    _chat("a limit of nothing", max_tokens=0),
    _chat("a limit beyond the model", max_tokens=10**6),
    _chat("too hot", temperature=3.5),
    _chat("an impossible top p", top_p=2.0),
    _chat("too many log-probabilities", logprobs=True, top_logprobs=1000),
    _chat("no choices", n=0),
    _chat("an unknown response format", response_format={"type": "poem"}),
    _chat("tools without a parser", tools=[_WEATHER], tool_choice="auto"),
    _chat("stream options without a stream", stream_options={"include_usage": True}),
    _chat("another model", model="gpt-none"),
    _chat("an empty salt", cache_salt=""),
    _chat("a broken regular expression", structured_outputs={"regex": "["}),
    _text("a prompt of a wrong kind", prompt={"a": 1}),
    _text("no prompt", prompt=None),
    _text("a token that is none", prompt=[10**9]),
    _text("a prompt beyond the model", prompt=[1000] * 9000),
    _text("an unknown encoding", prompt=STORY, encoding_format=17),
)
OTHERS = (
    Asked("tokens of a text", "/tokenize", {"prompt": STORY}),
    Asked("tokens of a chat", "/tokenize", {"messages": _TALK}),
    Asked("text of tokens", "/detokenize", {"tokens": _IDS}),
    Asked("embeddings of a model that has none", "/v1/embeddings", {"input": "hello"}),
    Asked("an unknown path", "/v1/nothing", {}),
)
ALL = (*CHATS, *TEXTS, *REFUSED, *OTHERS)
