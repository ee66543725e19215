"""The engines' answers: what is read from them and the two fields that are put right on the way.

Owns usage.prompt_tokens_details.cached_tokens and kv_transfer_params of answers. Everything else passes
as the bytes that vLLM sent.
"""

import logging
from typing import Any

import msgspec

from memserve.gateway.request_body import KV_FIELD, KV_KEY
from memserve.wire.messages import RequestReport

_log = logging.getLogger(__name__)

_NULL = msgspec.Raw(b"null")
_EVENT_END = b"\n\n"
_DATA = b"data: "
_MAX_EVENT_BYTES = 64 << 20

Fields = dict[str, msgspec.Raw]


class _Answer(msgspec.Struct):
    kv_transfer_params: dict[str, msgspec.Raw] | None = None


def report_of(body: bytes) -> RequestReport | None:
    """The instance's own account inside a non-streaming answer; None when there is none to read."""
    try:
        params = msgspec.json.decode(body, type=_Answer).kv_transfer_params
        if not params or KV_KEY not in params:
            return None
        return msgspec.json.decode(params[KV_KEY], type=RequestReport)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _log.warning("an instance sent a report that cannot be read: %s", error)
        return None


def rewrite_whole(body: bytes, *, cached_tokens: int | None) -> bytes:
    """A non-streaming answer as plain vLLM would give it; `cached_tokens` None leaves usage alone."""
    fields = _fields(body)
    if fields is None:
        return body
    if KV_FIELD in fields:
        fields[KV_FIELD] = _NULL
    if cached_tokens is not None and "usage" in fields:
        fields["usage"] = _with_cached_tokens(fields["usage"], cached_tokens)
    return msgspec.json.encode(fields)


class EventStream:
    """Cuts a byte stream into whole server-sent events and puts their usage right.

    Hands out whole events only, so that a stream which breaks can still be given a readable end. Bytes
    are unchanged but for events with a usage, and for those only when `cached_tokens` is given.
    """

    def __init__(self, *, cached_tokens: int | None) -> None:
        self._cached_tokens = cached_tokens
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """What can be sent on by now; b"" while an event is incomplete."""
        data = self._rest + chunk if self._rest else chunk
        end = data.rfind(_EVENT_END) + len(_EVENT_END)
        if end < len(_EVENT_END):
            end = len(data) if len(data) > _MAX_EVENT_BYTES else 0
        self._rest = data[end:]
        return self._rewritten(data[:end])

    def close(self) -> bytes:
        """What is left when the upstream has ended properly."""
        rest, self._rest = self._rest, b""
        return rest

    def _rewritten(self, events: bytes) -> bytes:
        if self._cached_tokens is None or b'"usage"' not in events:
            return events
        return b"".join(self._rewritten_event(e, self._cached_tokens) for e in events.split(_EVENT_END))[
            : -len(_EVENT_END)
        ]

    def _rewritten_event(self, event: bytes, cached_tokens: int) -> bytes:
        fields = _fields(event[len(_DATA) :]) if event.startswith(_DATA) and b'"usage"' in event else None
        if fields is None or "usage" not in fields or fields["usage"] == _NULL:
            return event + _EVENT_END
        fields["usage"] = _with_cached_tokens(fields["usage"], cached_tokens)
        return _DATA + msgspec.json.encode(fields) + _EVENT_END


def begins_with_engine_error(chunk: bytes) -> bool:
    """Whether a stream starts with an error of the engine itself (5xx), before any output."""
    first, end, _ = chunk.partition(_EVENT_END)
    if not end or not first.startswith(_DATA + b'{"error"'):
        return False
    try:
        error = msgspec.json.decode(first[len(_DATA) :])["error"]
        return bool(error["code"] >= 500)
    except (msgspec.DecodeError, KeyError, TypeError):
        return False


def _fields(body: bytes) -> Fields | None:
    try:
        return msgspec.json.decode(body, type=Fields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _with_cached_tokens(usage: msgspec.Raw, cached_tokens: int) -> msgspec.Raw:
    if usage == _NULL:
        return usage
    counts: dict[str, Any] = msgspec.json.decode(usage)
    details = counts.get("prompt_tokens_details") or {}
    counts["prompt_tokens_details"] = {**details, "cached_tokens": cached_tokens}
    return msgspec.Raw(msgspec.json.encode(counts))
