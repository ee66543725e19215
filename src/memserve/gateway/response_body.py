"""The engines' answers: what is read from them and the two fields that are put right on the way.

Owns usage.prompt_tokens_details.cached_tokens and kv_transfer_params of answers. Everything else passes
as the bytes that vLLM sent.
"""

import logging
from typing import Any

import msgspec

from memserve.gateway.engine_events import DATA, EVENT_END
from memserve.gateway.request_body import KV_FIELD, KV_KEY
from memserve.wire.messages import RequestReport

_log = logging.getLogger(__name__)

_NULL = msgspec.Raw(b"null")

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


def put_usage_right(events: bytes, *, cached_tokens: int | None) -> bytes:
    """Whole events with what the prefill instance had cached; None, or no such detail, leaves the bytes alone."""
    if cached_tokens is None or b'"cached_tokens"' not in events:
        return events
    return b"".join(_rewritten_event(e, cached_tokens) for e in events.split(EVENT_END) if e)


def _rewritten_event(event: bytes, cached_tokens: int) -> bytes:
    fields = _fields(event[len(DATA) :]) if event.startswith(DATA) and b'"cached_tokens"' in event else None
    if fields is None or "usage" not in fields:
        return event + EVENT_END
    fields["usage"] = _with_cached_tokens(fields["usage"], cached_tokens)
    return DATA + msgspec.json.encode(fields) + EVENT_END


def begins_with_engine_error(chunk: bytes) -> bool:
    """Whether a stream starts with an error of the engine itself (5xx), before any output."""
    first, end, _ = chunk.partition(EVENT_END)
    if not end or not first.startswith(DATA + b'{"error"'):
        return False
    try:
        error = msgspec.json.decode(first[len(DATA) :])["error"]
        return bool(error["code"] >= 500)
    except (msgspec.DecodeError, KeyError, TypeError):
        return False


def _fields(body: bytes) -> Fields | None:
    try:
        return msgspec.json.decode(body, type=Fields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _with_cached_tokens(usage: msgspec.Raw, cached_tokens: int) -> msgspec.Raw:
    """Only where the engine tells details: it leaves them out of the usage that comes with every event."""
    counts: dict[str, Any] | None = msgspec.json.decode(usage)
    details = (counts or {}).get("prompt_tokens_details")
    if counts is None or details is None:
        return usage
    return msgspec.Raw(
        msgspec.json.encode({**counts, "prompt_tokens_details": {**details, "cached_tokens": cached_tokens}})
    )
