"""One answer that the gateway puts together itself, from the tokens of one instance after the other.

Owns the tokens given so far, when the answer is over, and why. Pure; the form it takes is answer_form's.

    open -> over (a stop string, a token that ends it, the limit)
"""

from collections.abc import Sequence

import msgspec

from memserve.gateway.continuable import Continuable
from memserve.gateway.output_text import OutputText


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What the client gets next."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str | None = None
    """On the last one: "stop" or "length"."""
    stop_reason: int | str | None = None


class Speech:
    def __init__(self, plan: Continuable, *, prompt: Sequence[int], text: OutputText, limit: int) -> None:
        """`limit`: tokens that the whole answer may have, at least one."""
        self.plan = plan
        self.prompt = prompt
        self._text = text
        self._limit = limit
        self._tokens: list[int] = []
        self._last: Piece | None = None

    @property
    def tokens(self) -> Sequence[int]:
        return self._tokens

    @property
    def text(self) -> str:
        """All of it, also what is not shown yet."""
        return self._text.text

    @property
    def num_shown(self) -> int:
        return self._text.num_shown

    @property
    def num_left(self) -> int:
        return self._limit - len(self._tokens)

    @property
    def last(self) -> Piece | None:
        """The piece that ended it; None while it is open."""
        return self._last

    def take(
        self, tokens: Sequence[int], *, finish_reason: str | None = None, stop_reason: int | str | None = None
    ) -> Piece:
        """The next tokens; the reasons are the instance's, None while it has not finished."""
        by_token = finish_reason == "stop" and not isinstance(stop_reason, str)
        stop_string = self._text.add(tokens, ended_by_last=by_token)
        new = tuple(tokens[: self._text.num_tokens - len(self._tokens)])
        self._tokens += new
        if stop_string is not None:
            finish_reason, stop_reason = "stop", stop_string
        elif finish_reason is None and self.num_left <= 0:
            finish_reason = "length"
        is_last = finish_reason is not None
        piece = Piece(
            text=self._text.show(is_last=is_last), tokens=new, finish_reason=finish_reason, stop_reason=stop_reason
        )
        self._last = piece if is_last else None
        return piece

    def __repr__(self) -> str:
        return f"Speech({len(self._tokens)}/{self._limit} tokens, {'open' if self._last is None else 'over'})"
