"""Answers in the form in which vLLM 0.32 gives them, made of pieces of a Speech.

Owns the JSON of events and of whole answers. Pure. What is made here and what an engine sends must not be
told apart, except by times.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from memserve.gateway.client_connection import DONE_EVENT
from memserve.gateway.continuable import Continuable
from memserve.gateway.engine_events import DATA, EVENT_END
from memserve.gateway.request_body import KV_FIELD
from memserve.gateway.speech import Piece, Speech


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What all events of an answer begin with."""

    id: str
    model: str
    created: int
    """Unix seconds."""
    system_fingerprint: str | None = None
    role: str = "assistant"
    """Of a chat; another one where a message of the client's is gone on with."""


class EventForm:
    """Events of one stream."""

    def __init__(self, plan: Continuable, head: Head, *, cached_tokens: int) -> None:
        self._plan = plan
        self._head = head
        self._cached_tokens = cached_tokens

    def stamp(self, system_fingerprint: str) -> None:
        """What the last event says; an engine tells it with its own last one."""
        self._head = msgspec.structs.replace(self._head, system_fingerprint=system_fingerprint)

    def opening(self, prompt: Sequence[int]) -> bytes:
        """The event with the role; b"" for a text completion, which has none."""
        if not self._plan.is_chat:
            return b""
        choice = {
            "index": 0,
            "delta": {"role": self._head.role, "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return self._event(
            choices=[choice],
            **self._running_usage(len(prompt), 0),
            prompt_token_ids=self._ids(prompt),
            prompt_text=None,
        )

    def piece(self, piece: Piece, speech: Speech) -> bytes:
        """`speech` has taken it already."""
        is_first = len(speech.tokens) == len(piece.tokens)
        is_last = piece.finish_reason is not None
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": piece.text}} if self._plan.is_chat else {"text": piece.text}
        choice |= {"logprobs": None, "finish_reason": piece.finish_reason}
        if is_last or not self._plan.is_chat:
            choice["stop_reason"] = piece.stop_reason
        if not self._plan.is_chat:
            choice["prompt_token_ids"] = self._ids(speech.prompt) if is_first else None
        choice["token_ids"] = self._ids(piece.tokens)
        fingerprint = self._fingerprint() if is_last and not self._plan.wants_usage else {}
        return self._event(
            choices=[choice], **self._running_usage(len(speech.prompt), len(speech.tokens)), **fingerprint
        )

    def closing(self, speech: Speech) -> bytes:
        """What follows the last piece."""
        if not self._plan.wants_usage:
            return DONE_EVENT
        created = {"created_cache_tokens": 0} if self._plan.is_chat else {}
        usage = {
            **_counts(len(speech.prompt), len(speech.tokens)),
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens, **created},
        }
        return self._event(choices=[], usage=usage, **self._fingerprint()) + DONE_EVENT

    def _event(self, **fields: Any) -> bytes:
        head = {
            "id": self._head.id,
            "object": "chat.completion.chunk" if self._plan.is_chat else "text_completion",
            "created": self._head.created,
            "model": self._head.model,
        }
        return DATA + msgspec.json.encode({**head, **fields}) + EVENT_END

    def _ids(self, tokens: Sequence[int]) -> Sequence[int] | None:
        return tokens if self._plan.wants_token_ids else None

    def _fingerprint(self) -> dict[str, Any]:
        fingerprint = self._head.system_fingerprint
        return {} if fingerprint is None else {"system_fingerprint": fingerprint}

    def _running_usage(self, num_prompt: int, num_output: int) -> dict[str, Any]:
        if not self._plan.wants_running_usage:
            return {}
        details = {"completion_tokens_details": None} if self._plan.is_chat else {}
        return {"usage": {**_counts(num_prompt, num_output), **details}}


def whole_answer(first: dict[str, Any], speech: Speech, last: Piece, *, cached_tokens: int) -> bytes:
    """The answer in one; `first` is the one that the prefill instance gave with its single token."""
    wants_ids = speech.plan.wants_token_ids
    choice = {
        **first["choices"][0],
        "finish_reason": last.finish_reason,
        "stop_reason": last.stop_reason,
        "token_ids": speech.tokens if wants_ids else None,
    }
    answer = {**first, KV_FIELD: None}
    if speech.plan.is_chat:
        choice["message"] = {**choice["message"], "content": speech.text}
    else:
        choice["text"] = speech.text
    asked_of = answer if speech.plan.is_chat else choice
    asked_of["prompt_token_ids"] = speech.prompt if wants_ids else None
    details = {**(first["usage"].get("prompt_tokens_details") or {}), "cached_tokens": cached_tokens}
    usage = {**first["usage"], **_counts(len(speech.prompt), len(speech.tokens)), "prompt_tokens_details": details}
    return msgspec.json.encode({**answer, "choices": [choice], "usage": usage})


def _counts(num_prompt: int, num_output: int) -> dict[str, int]:
    return {"prompt_tokens": num_prompt, "total_tokens": num_prompt + num_output, "completion_tokens": num_output}
