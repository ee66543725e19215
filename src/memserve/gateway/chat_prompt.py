"""A chat request turned into what its template takes, the way vLLM 0.32 does it.

Owns the mirrored steps and nothing of threads or tokens' use. Raises freely on requests it cannot follow.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

# Arguments of apply_chat_template itself, which a client may not set through chat_template_kwargs.
_OWN_ARGUMENTS = frozenset(
    {
        *("conversation", "chat_template", "tokenize", "padding", "truncation", "max_length", "return_tensors"),
        *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "tools"),
    }
)
_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
_PROBE = "memserve-probe"


class CannotFollow(ValueError):
    """The request has content that does not become text tokens alone; route it without its prefix."""


class ChatPrompt:
    """One chat request."""

    def __init__(self, messages: list[Any], body: Mapping[str, Any], *, part_lists: bool) -> None:
        """`part_lists`: the template takes content as a list of parts rather than a string."""
        self._messages = messages
        self._body = body
        self._part_lists = part_lists

    def text(self, tokenizer: Any) -> str:
        """What the tokenizer's template makes of it."""
        text: str = tokenizer.apply_chat_template(
            [self._message(m) for m in self._messages],
            tools=self._tools(),
            tokenize=False,
            **self._template_arguments(),
        )
        return text

    def _template_arguments(self) -> dict[str, Any]:
        body = self._body
        effort = body.get("reasoning_effort")
        asked = body.get("chat_template_kwargs") or {}
        given = {
            "add_generation_prompt": body.get("add_generation_prompt", True),
            "continue_final_message": body.get("continue_final_message", False),
            "documents": body.get("documents"),
            "reasoning_effort": effort,
        }
        if effort is not None and "enable_thinking" not in asked:
            given["enable_thinking"] = effort != "none"
        merged = {**asked, **{name: value for name, value in given.items() if value is not None}}
        return {name: value for name, value in merged.items() if name not in _OWN_ARGUMENTS}

    def _tools(self) -> list[Any] | None:
        tools = self._body.get("tools")
        return [_tool(t) for t in tools] if tools else None

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        role = message["role"]
        made = {"role": role, "content": self._content(role, message.get("content"))}
        if role == "assistant":
            made |= _assistant_fields(message)
        names = ("name", "task", "tool_call_id") if role == "tool" else ("name", "task")
        return made | {name: message[name] for name in names if isinstance(message.get(name), str)}

    def _content(self, role: str, content: Any) -> str | list[Any]:
        parts = content if isinstance(content, list) else [] if content is None else [content]
        texts = [_text(part) for part in parts]
        if self._part_lists and role != "tool":
            return [{"type": "text", "text": text} for text in texts]
        return "\n".join(texts)


def walks_over_parts(tokenizer: Any) -> bool:
    """Whether the tokenizer's template takes a message's content as parts; told by trying."""
    probe = [{"role": "user", "content": [{"type": "text", "text": _PROBE}]}]
    try:
        rendered = tokenizer.apply_chat_template(probe, tokenize=False)
    except Exception:
        # No template, or one that cannot take parts and fails in a way of its own.
        return False
    return _PROBE in rendered and "'type'" not in rendered


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if part.get("type", "text") not in _TEXT_PARTS:
        raise CannotFollow(f"a message part of type {part['type']}")
    text = part.get("text", part.get("refusal", part.get("thinking")))
    return str(text)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    made = {name: function.get(name) for name in ("name", "description", "parameters")}
    made |= {name: function[name] for name in ("strict", "defer_loading") if function.get(name) is not None}
    return {"type": tool.get("type", "function"), "function": made}


def _assistant_fields(message: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    reasoning = message.get("reasoning", message.get("reasoning_content"))
    if reasoning is not None:
        made |= {"reasoning": reasoning, "reasoning_content": reasoning}
    if message.get("tool_calls"):
        made["tool_calls"] = [_call(c) for c in message["tool_calls"]]
    return made


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _arguments(given: Any) -> dict[str, Any]:
    """An object; anything else becomes an empty one, as vLLM has it."""
    if isinstance(given, str):
        try:
            given = msgspec.json.decode(given)
        except msgspec.DecodeError:
            return {}
    return given if isinstance(given, dict) else {}
