"""What a client was told by an engine's stream, to have another engine tell it again and go on from there.

Owns the told text. For streams that cannot be continued from their tokens but come out the same every time: greedy
or seeded ones with tool calls, reasoning, log-probabilities, penalties, grammars, several choices. What was told
already is compared and cut off; an engine that says something else is not listened to. Where events begin and
end does not matter: a busy engine puts several tokens into one.

    telling -> (lost) rewound -> comparing -> telling
"""

import re
from typing import Any

import msgspec

from memserve.gateway.client_connection import DONE_EVENT
from memserve.gateway.engine_events import DATA, EVENT_END, read_events

_CREATED = re.compile(rb'"created":[0-9]+')
_GROWING = frozenset({"role", "text", "content", "reasoning", "reasoning_content", "refusal", "name", "arguments"})
"""Texts that each event adds to."""
_FINISH = "finish_reason"
_TOKEN_LISTS = frozenset({"token_ids", "content", "tokens", "token_logprobs", "top_logprobs", "text_offset"})
"""Lists with an entry a token; compared by nothing but their length, for numbers differ by rounding."""

Key = tuple[str | int, ...]


class Replay:
    """Of one stream."""

    def __init__(self) -> None:
        self._told: dict[Key, str] = {}
        self._num_told: dict[Key, int] = {}
        self._behind: dict[Key, str] = {}
        self._num_behind: dict[Key, int] = {}
        self._has_usage = False
        self._created: bytes | None = None
        self.fault = ""
        """Why the engine gave up inside its stream; what it sent from there on is dropped."""
        self.has_ended = False
        """The end of the stream has gone past."""
        self.has_diverged = False
        """This engine said something else than the one before it."""

    def rewind(self) -> None:
        """The next stream starts from the beginning."""
        self._behind, self._num_behind = dict(self._told), dict(self._num_told)
        self.fault = ""

    def pass_on(self, data: bytes) -> bytes:
        """Whole events; gives what of them the client has not got yet."""
        passed = []
        for raw, event in read_events(data):
            if event is not None and event.fault:
                self.fault = event.fault
                break
            passed.append(self._dated(raw) if event is not None else self._remark(raw))
            if self.has_diverged:
                break
        return b"".join(passed)

    def _remark(self, raw: bytes) -> bytes:
        """Comments and [DONE]."""
        self.has_ended |= raw == DONE_EVENT
        return b"" if self._is_behind else raw

    @property
    def _is_behind(self) -> bool:
        return bool(self._behind or self._num_behind)

    def _dated(self, raw: bytes) -> bytes:
        """What is new in an event, with the time of the first one, which all of a stream share."""
        fields: dict[str, Any] = msgspec.json.decode(raw[len(DATA) :])
        was_behind = self._is_behind
        if not fields.get("choices") and fields.get("usage"):
            if self._has_usage:
                return b""
            self._has_usage = True
        parts = [(choice, self._take((choice.get("index", 0),), choice)) for choice in fields.get("choices", ())]
        if self.has_diverged or (parts and was_behind and not any(is_new for _, is_new in parts)):
            return b""
        if was_behind:
            fields["choices"] = [choice for choice, is_new in parts if is_new]
            raw = DATA + msgspec.json.encode(fields) + EVENT_END
        found = _CREATED.search(raw)
        if self._created is None:
            self._created = found[0] if found else b""
        return _CREATED.sub(self._created, raw, count=1) if found and self._created else raw

    def _take(self, key: Key, value: Any) -> bool:
        """Note what `value` adds below `key` and cut off what was told; whether anything is new."""
        is_new = False
        for name, part in list(value.items()):
            below = (*key, name)
            if isinstance(part, str) and (name in _GROWING or name == _FINISH):
                value[name] = self._new_text(below, part) if name in _GROWING else part
                is_new |= bool(value[name]) if name in _GROWING else bool(self._new_text(below, part))
            elif isinstance(part, list) and name in _TOKEN_LISTS:
                value[name] = self._new_entries(below, part)
                is_new |= bool(value[name])
            elif isinstance(part, dict):
                is_new |= self._take(below, part)
            elif isinstance(part, list) and name == "tool_calls":
                news = [(call, self._take((*below, call.get("index", 0)), call)) for call in part]
                value[name] = [call for call, is_call_new in news if is_call_new]
                is_new |= bool(value[name])
        return is_new

    def _new_text(self, key: Key, text: str) -> str:
        behind = self._behind.pop(key, "")
        num_old = min(len(behind), len(text))
        if behind[:num_old] != text[:num_old]:
            self.has_diverged = True
        if behind[num_old:]:
            self._behind[key] = behind[num_old:]
        new = text[num_old:]
        if new:
            self._told[key] = self._told.get(key, "") + new
        return new

    def _new_entries(self, key: Key, entries: list[Any]) -> list[Any]:
        behind = self._num_behind.pop(key, 0)
        if behind > len(entries):
            self._num_behind[key] = behind - len(entries)
        new = entries[behind:]
        if new:
            self._num_told[key] = self._num_told.get(key, 0) + len(new)
        return new

    def __repr__(self) -> str:
        told = sum(len(text) for text in self._told.values())
        return f"Replay({told} characters told, behind={self._is_behind}, fault={self.fault!r})"
