"""Which requests one instance can take over from another in the middle of the answer, and with what body.

Owns the rules. The one that takes over gets the prompt and the output so far as its prompt. That gives the same
answer only if nothing but these tokens decides what follows, so whatever keeps state beside them (penalties,
grammars, bad words, a seeded random generator) or reports on single tokens (log-probabilities) is out, and so is
every field that is not known here. Sampling without a seed may be continued: its answer is drawn anew in any case.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from memserve.core.enums import Phase
from memserve.gateway.request_body import KV_FIELD, KV_KEY, ClientRequest, decode_body, prefill_body
from memserve.wire.messages import RequestParams

CHAT_PATH = "/v1/chat/completions"
CONTINUATION_PATH = "/v1/completions"
_DEFAULT_COMPLETION_TOKENS = 16

# Sent on with every part.
_EACH_PART = frozenset(
    {
        *("model", "temperature", "top_p", "top_k", "min_p", "logit_bias", "allowed_token_ids", "stop_token_ids"),
        *("ignore_eos", "seed", "user", "priority", "session_id", "cache_salt", "include_stop_str_in_output"),
    }
)
# Looked at here.
_READ_HERE = frozenset({"max_tokens", "max_completion_tokens", "min_tokens", "stop", "stream", "stream_options"})
# Done with once the prompt is tokens, or nothing to an engine.
_PROMPT_ONLY = frozenset(
    {
        *("messages", "prompt", "add_special_tokens", "add_generation_prompt", "continue_final_message", "documents"),
        *("chat_template", "chat_template_kwargs", "return_token_ids", "length_penalty", "metadata", "store"),
        *("service_tier", "parallel_tool_calls"),
    }
)
# Harmless only with one of these values.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "bad_words": ([],),
    "tools": ([],),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_reasoning": (True,),
    "return_tokens_as_token_ids": (False,),
}
_STREAM_OPTIONS = frozenset({"include_usage", "continuous_usage_stats"})
_TEXT_PART = "text"


class Continuable(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may be continued."""

    request: ClientRequest
    is_chat: bool
    is_stream: bool
    max_tokens: int | None
    """None: as many as the model's context leaves."""
    min_tokens: int
    stop: tuple[str, ...]
    keeps_stop: bool
    """A stop string stays in the text."""
    wants_token_ids: bool
    wants_usage: bool
    wants_running_usage: bool
    """With every event."""


def continuable(request: ClientRequest, *, path: str) -> Continuable | None:
    """None when the request cannot be continued, or is one that the engine may refuse or read in another way."""
    values = {name: value for name, value in request.values.items() if value is not None}
    is_chat = path == CHAT_PATH
    limit = _limit(values, is_chat=is_chat)
    min_tokens = values.get("min_tokens", 0)
    stop = _stop(values.get("stop", ()))
    usual = (
        all(_is_known(name, value) for name, value in values.items())
        and (is_chat or "logprobs" not in values)  # a number there, and 0 asks for some
        and ("seed" not in values or values.get("temperature") == 0)
        and (_is_text_chat(values.get("messages")) if is_chat else _is_one_prompt(values.get("prompt")))
    )
    if not usual or stop is None or not _is_count(min_tokens, least=0) or not _is_stream_asked_well(values):
        return None
    if limit is not None and (not _is_count(limit, least=1) or min_tokens > limit):
        return None
    options = values.get("stream_options", {})
    return Continuable(
        request=request,
        is_chat=is_chat,
        is_stream=values.get("stream") is True,
        max_tokens=limit,
        min_tokens=min_tokens,
        stop=stop,
        keeps_stop=values.get("include_stop_str_in_output") is True,
        wants_token_ids=values.get("return_token_ids") is True,
        wants_usage=options.get("include_usage") is True,
        wants_running_usage=options.get("include_usage") is True and options.get("continuous_usage_stats") is True,
    )


def can_be_replayed(request: ClientRequest) -> bool:
    """Whether another instance, asked the same from the start, says the same: a greedy or seeded stream."""
    values = request.values
    return values.get("stream") is True and (values.get("temperature") == 0 or values.get("seed") is not None)


def first_token_body(plan: Continuable, params: RequestParams) -> bytes:
    """For the prefill instance: its one token is the client's first."""
    more = {"return_token_ids": True} | ({"min_tokens": 1} if plan.min_tokens else {})
    return prefill_body(plan.request, params, more=more)


def followed_body(plan: Continuable, params: RequestParams) -> bytes:
    """The client's own request, with the tokens told beside the text."""
    return decode_body(plan.request, params, more={"return_token_ids": True})


def continuation_body(
    plan: Continuable, *, prompt: Sequence[int], output: Sequence[int], num_left: int, params: RequestParams
) -> bytes:
    """For whoever goes on after `output`, of which `num_left` tokens more are wanted; goes to CONTINUATION_PATH.

    Stop strings stay with the gateway: one may have begun in the output that this instance does not produce.
    A prefill instance is asked for the next token alone.
    """
    is_prefill = params.phase is Phase.PREFILL
    num_wanted = 1 if is_prefill else num_left
    num_forced = min(num_wanted, plan.min_tokens - len(output))
    fields: dict[str, Any] = {
        **{name: value for name, value in plan.request.fields.items() if name in _EACH_PART},
        "prompt": [*prompt, *output],
        "max_tokens": num_wanted,
        "return_token_ids": True,
    }
    if num_forced > 0:
        fields["min_tokens"] = num_forced
    if not is_prefill:
        fields["stream"] = True
    return msgspec.json.encode({**fields, KV_FIELD: {KV_KEY: params}})


def _is_known(name: str, value: Any) -> bool:
    if name in _NEUTRAL:
        return any(value == neutral and type(value) in _like(neutral) for neutral in _NEUTRAL[name])
    return name in _EACH_PART or name in _READ_HERE or name in _PROMPT_ONLY


def _like(neutral: Any) -> tuple[type, ...]:
    """Types that count as equal: 0 and 0.0 do, 0 and False do not."""
    return (int, float) if type(neutral) is int else (type(neutral),)


def _limit(values: Mapping[str, Any], *, is_chat: bool) -> Any:
    if is_chat:
        return values.get("max_completion_tokens", values.get("max_tokens"))
    return values.get("max_tokens", _DEFAULT_COMPLETION_TOKENS)


def _stop(asked: Any) -> tuple[str, ...] | None:
    """None when it is not one string or several."""
    strings = (asked,) if isinstance(asked, str) else asked
    if not isinstance(strings, list | tuple) or not all(isinstance(s, str) and s for s in strings):
        return None
    return tuple(strings)


def _is_count(value: Any, *, least: int) -> bool:
    return type(value) is int and value >= least


def _is_stream_asked_well(values: Mapping[str, Any]) -> bool:
    options = values.get("stream_options")
    flags = [values.get(name, False) for name in ("stream", "include_stop_str_in_output", "return_token_ids")]
    if not all(isinstance(flag, bool) for flag in flags):
        return False
    if options is None:
        return True
    return (
        flags[0]
        and isinstance(options, dict)
        and options.keys() <= _STREAM_OPTIONS
        and all(isinstance(option, bool) for option in options.values())
    )


def _is_text_chat(messages: Any) -> bool:
    """Pictures and sounds are more than their tokens."""
    return isinstance(messages, list) and all(isinstance(m, dict) and _is_text(m.get("content")) for m in messages)


def _is_text(content: Any) -> bool:
    if isinstance(content, list):
        return all(isinstance(p, str) or (isinstance(p, dict) and p.get("type") == _TEXT_PART) for p in content)
    return content is None or isinstance(content, str)


def _is_one_prompt(prompt: Any) -> bool:
    """Text or token ids, alone or as the only one of a list."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    return isinstance(prompt, str) or (
        isinstance(prompt, list) and bool(prompt) and all(type(token) is int for token in prompt)
    )
