"""What a client was told by an engine's own stream, kept so that another instance can go on from there.

Owns the tokens and the text that went past, and hides the tokens from a client that did not ask for them: apart
from these two fields the events pass as the bytes that the engine sent. Bounded by the length of the answer.
"""

import re

from memserve.gateway.answer_form import Head
from memserve.gateway.client_connection import DONE_EVENT
from memserve.gateway.continuable import Continuable
from memserve.gateway.detokenizer import Detokenizer
from memserve.gateway.engine_events import EngineEvent, read_events
from memserve.gateway.output_text import OutputText
from memserve.gateway.speech import Speech

# Cannot stand inside a JSON string, where the quotes would be escaped.
_TOKEN_IDS = re.compile(rb'"((?:prompt_)?token_ids)":\[[0-9, ]*\]')


class Transcript:
    """Of one stream."""

    def __init__(self, plan: Continuable) -> None:
        self._plan = plan
        self._head: Head | None = None
        self._prompt: list[int] | None = None
        self._tokens: list[int] = []
        self._text = ""
        self._finish_reason: str | None = None
        self._stop_reason: int | str | None = None
        self._is_plain = True
        self.has_usage = False
        """The event with the usage, which follows the last piece, has gone past."""
        self.has_ended = False
        """So has the end of the stream."""
        self.fault = ""
        """Why the engine gave up inside its stream; what it sent from there on is dropped."""

    @property
    def head(self) -> Head | None:
        return self._head

    @property
    def num_tokens(self) -> int:
        return len(self._tokens)

    @property
    def prompt(self) -> list[int] | None:
        return self._prompt

    def pass_on(self, data: bytes) -> bytes:
        """Note whole events; gives what the client is to get of them."""
        passed = []
        for raw, event in read_events(data):
            if event is not None and event.fault:
                self.fault = event.fault
                break
            if event is not None:
                self._note(event)
            self.has_ended |= raw == DONE_EVENT
            passed.append(raw)
        told = b"".join(passed)
        return told if self._plan.wants_token_ids else _TOKEN_IDS.sub(rb'"\1":null', told)

    def _note(self, event: EngineEvent) -> None:
        if self._head is None:
            self._head = Head(id=event.id, model=event.model, created=event.created)
        if event.prompt_token_ids is not None:
            self._prompt = event.prompt_token_ids
        self.has_usage |= event.usage is not None and not event.choices
        for choice in event.choices:
            if choice.prompt_token_ids is not None:
                self._prompt = choice.prompt_token_ids
            self._tokens += choice.token_ids or ()
            self._text += choice.text or ""
            self._finish_reason, self._stop_reason = choice.finish_reason, choice.stop_reason
            if choice.delta is not None:
                self._text += choice.delta.content or ""
                self._is_plain &= choice.delta.reasoning is None and not choice.delta.tool_calls

    def speech(self, detokenizer: Detokenizer, *, limit: int) -> Speech | None:
        """The answer so far, to be continued; None when its tokens do not explain the text that was sent."""
        if self._prompt is None or not self._is_plain:
            return None
        plan = self._plan
        text = OutputText(
            detokenizer.after(self._prompt), stop=plan.stop, keeps_stop=plan.keeps_stop, min_tokens=plan.min_tokens
        )
        speech = Speech(plan, prompt=self._prompt, text=text, limit=limit)
        if self._tokens:
            reason = self._stop_reason if self._finish_reason is not None else None
            speech.take(self._tokens, finish_reason=self._finish_reason, stop_reason=reason)
        shown = speech.text[: speech.num_shown]
        return speech if shown == self._text and len(speech.tokens) == len(self._tokens) else None

    def __repr__(self) -> str:
        return f"Transcript({len(self._tokens)} tokens, {len(self._text)} characters, fault={self.fault!r})"
