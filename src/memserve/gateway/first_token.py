"""The answer of a prefill instance, read as the first token of the client's answer.

Owns the checks that it may be given to the client as it is. Pure.
"""

import msgspec

from memserve.gateway.answer_form import Head
from memserve.gateway.continuable import Continuable
from memserve.gateway.detokenizer import Detokenizer
from memserve.gateway.output_text import OutputText
from memserve.gateway.speech import Piece, Speech


class FirstToken(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that has begun."""

    speech: Speech
    piece: Piece
    head: Head


class _Message(msgspec.Struct, frozen=True):
    role: str = "assistant"
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    message: _Message | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class _Answer(msgspec.Struct, frozen=True):
    id: str
    model: str
    created: int
    choices: list[_Choice]
    prompt_token_ids: list[int] | None = None
    system_fingerprint: str | None = None


def first_token(
    plan: Continuable, content: bytes, *, detokenizer: Detokenizer, context_length: int
) -> FirstToken | None:
    """None when the answer cannot begin with it: the decode instance is to give all of it, or to refuse."""
    answer = read_part(content)
    if answer is None or answer.prompt is None:
        return None
    room = context_length - len(answer.prompt)
    if room < (plan.max_tokens or 1):
        return None  # the instance that is asked for all of it says what is wrong
    text = OutputText(
        detokenizer.after(answer.prompt), stop=plan.stop, keeps_stop=plan.keeps_stop, min_tokens=plan.min_tokens
    )
    speech = Speech(plan, prompt=answer.prompt, text=text, limit=plan.max_tokens or room)
    piece = speech.take(answer.tokens, finish_reason=answer.finish_reason, stop_reason=answer.stop_reason)
    if answer.text != speech.text:
        return None
    return FirstToken(speech=speech, piece=piece, head=answer.head)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one whole answer of one token says."""

    head: Head
    prompt: list[int] | None
    tokens: list[int]
    text: str | None
    """None when it is more than text."""
    finish_reason: str | None
    """None when only the one token that was asked for ended it."""
    stop_reason: int | str | None


def read_part(content: bytes) -> Part | None:
    """None when it cannot be read, holds no single token, or the engine broke it off."""
    try:
        answer = msgspec.json.decode(content, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    choice = answer.choices[0] if len(answer.choices) == 1 else _Choice()
    if choice.finish_reason not in {"stop", "length"} or len(choice.token_ids or ()) != 1:
        return None
    return Part(
        head=Head(
            id=answer.id,
            model=answer.model,
            created=answer.created,
            system_fingerprint=answer.system_fingerprint,
            role=choice.message.role if choice.message is not None else "",
        ),
        prompt=answer.prompt_token_ids or choice.prompt_token_ids,
        tokens=choice.token_ids or [],
        text=_text(choice),
        finish_reason=None if choice.finish_reason == "length" else choice.finish_reason,
        stop_reason=choice.stop_reason,
    )


def _text(choice: _Choice) -> str | None:
    if choice.message is None:
        return choice.text
    if choice.message.reasoning is not None or choice.message.tool_calls:
        return None
    return choice.message.content or ""
