"""The text of an output, token by token, with stop strings: what vLLM 0.32's detokenizer does inside an engine.

Owns the text so far and how much of it may be shown. Pure: turning one token into text is handed in.

    "so far the text"
     └ shown ┘└ held back, while a stop string may still begin in it ┘
"""

from collections.abc import Callable, Sequence


class OutputText:
    """Of one output. A stop string that spans two instances' parts is found as if one had produced both."""

    def __init__(
        self, decode: Callable[[int], str], *, stop: Sequence[str] = (), keeps_stop: bool = False, min_tokens: int = 0
    ) -> None:
        """`decode` gives the text that the next token adds; no stop string counts within `min_tokens` tokens."""
        self._decode = decode
        self._stop = stop
        self._keeps_stop = keeps_stop
        self._min_tokens = min_tokens
        self._num_held_back = max((len(s) for s in stop), default=1) - 1 if not keeps_stop else 0
        self._num_tokens = 0
        self._text = ""
        self._num_shown = 0

    @property
    def num_tokens(self) -> int:
        """Those that count as output: none after the one that completed a stop string."""
        return self._num_tokens

    @property
    def text(self) -> str:
        return self._text

    @property
    def num_shown(self) -> int:
        """Characters that `show` has given out."""
        return self._num_shown

    def add(self, tokens: Sequence[int], *, ended_by_last: bool = False) -> str | None:
        """Take the next tokens; the stop string that ends the text here, if one does.

        `ended_by_last`: the last of them ended the output (end of sequence, a stop token) and has no text.
        """
        for number, token in enumerate(tokens, 1):
            before = len(self._text)
            is_silent = ended_by_last and number == len(tokens) and not self._keeps_stop
            self._text += "" if is_silent else self._decode(token)
            self._num_tokens += 1
            stopped = self._cut_at_stop(len(self._text) - before)
            if stopped is not None:
                return stopped
        return None

    def _cut_at_stop(self, num_new: int) -> str | None:
        if not self._stop or not num_new or self._num_tokens <= self._min_tokens:
            return None
        found = [
            (at + len(stop), number, at, stop)
            for number, stop in enumerate(self._stop)
            if (at := self._text.find(stop, 1 - num_new - len(stop))) != -1
        ]
        if not found:
            return None
        end, _, start, stop = min(found)
        self._text = self._text[: end if self._keeps_stop else start]
        return stop

    def show(self, *, is_last: bool) -> str:
        """What may be shown and was not yet; all of it when nothing follows."""
        end = len(self._text) - (0 if is_last else self._num_held_back)
        if end <= self._num_shown:
            return ""
        shown, self._num_shown = self._text[self._num_shown : end], end
        return shown

    def __repr__(self) -> str:
        return f"OutputText({self._num_tokens} tokens, {self._num_shown}/{len(self._text)} characters shown)"
