"""What is played: sessions that arrive at random, each a chain of turns.

Owns arrivals, think times and how turns become tokens. All randomness comes from the seed, so every system, every
repetition and the simulator get the same sessions; a rate only stretches the same arrivals. The prompt of a turn is
everything before it, the model's own answers included:

    prompt of turn k = turn 0 + answer 0 + turn 1 + answer 1 + ... + turn k

A turn is sent `think_s` after the whole answer to the one before, so the order within a session holds at any load.
Answers have a fixed number of tokens (`ignore_eos`, `max_tokens`): every system does the same work.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec
from tokenizers import Tokenizer

from memserve.core.errors import ConfigError

THINK_S = 2.0
"""Mean time between an answer and the next turn when nothing else is said."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What is said at one time, and how long the answer is."""

    text: str
    tokens: tuple[int, ...]
    """Of the text by itself; beside the answer before it the engine's may differ by a token at the seam."""
    max_tokens: int
    """Tokens of the answer, never fewer."""
    think_s: float
    """Between the end of the answer before and this; 0 for the first turn."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    arrival_s: float
    """When its first turn is sent, after the beginning."""
    turns: tuple[Turn, ...]

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """Tokens of each turn's prompt."""
        lengths, so_far = [], 0
        for turn in self.turns:
            lengths.append(so_far + len(turn.tokens))
            so_far = lengths[-1] + turn.max_tokens
        return tuple(lengths)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A turn before it has a place in time."""

    text: str
    max_tokens: int


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """A session before it has a place in time. A workload is a sequence of them.

    `opening` is what comes before the first line: a system prompt, examples, a document. It may be shared.
    """

    name: str
    opening: str
    lines: tuple[Line, ...]


class Words:
    """A model's tokenizer, for counting and cutting text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def of_model(cls, folder: Path) -> "Words":
        """Raises ConfigError when the folder holds no tokenizer of the `tokenizers` library."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(f"{file} does not exist: sessions are cut by tokens, so give a model folder that has one")
        return cls(Tokenizer.from_file(str(file)))

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Tokens that are not text; kept out of answers, so that an answer's text is all of it."""
        added = self._tokenizer.get_added_tokens_decoder()
        return tuple(sorted(token for token, what in added.items() if what.special))

    def tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def count(self, text: str) -> int:
        return len(self.tokens(text))

    def cut(self, text: str, *, first: int = 0, count: int) -> str:
        """About `count` tokens of the text from its token `first` on; whole characters."""
        ids = self.tokens(text)
        if not first and len(ids) <= count:
            return text
        return str(self._tokenizer.decode(ids[first : first + count])).strip("\ufffd").strip()


def make_sessions(
    scripts: Sequence[Script],
    *,
    words: Words,
    rate: float,
    seed: int,
    context: int,
    marker: str = "",
    think_s: float = THINK_S,
) -> tuple[Session, ...]:
    """Sessions by arrival, the first at 0: Poisson with `rate` sessions a second, exponential think times.

    `marker` opens every prompt: with another marker nothing that was cached before is found. Turns that would not
    fit into `context` tokens, answer included, are left out together with those after them. Raises ConfigError for
    a rate that is not positive, and when not even one turn of a session fits.
    `think_s` is the mean of the times between an answer and the next turn.
    """
    if not rate > 0:
        raise ConfigError(f"a rate of {rate:g} sessions a second: give a positive number")
    random = Random(f"arrivals {seed}")  # noqa: S311 - a seeded load
    sessions: list[Session] = []
    at_s = 0.0
    for script in scripts:
        at_s += random.expovariate(1.0) if sessions else 0.0
        thinks = [0.0, *(random.expovariate(1 / think_s) if think_s > 0 else 0.0 for _ in script.lines[1:])]
        turns = _fitting(_turns(script, thinks, words=words, marker=marker), context)
        if not turns:
            raise ConfigError(f"no turn of session {script.name} fits into the model's {context} tokens")
        sessions.append(Session(name=script.name, arrival_s=at_s / rate, turns=turns))
    return tuple(sessions)


def _turns(script: Script, thinks: Sequence[float], *, words: Words, marker: str) -> list[Turn]:
    before = f"({marker}) {script.opening}" if marker else script.opening
    turns = []
    for line, think_s in zip(script.lines, thinks, strict=True):
        text = before + line.text
        turns.append(Turn(text=text, tokens=words.tokens(text), max_tokens=line.max_tokens, think_s=think_s))
        before = ""
    return turns


def _fitting(turns: Sequence[Turn], context: int) -> tuple[Turn, ...]:
    fitting, num_tokens = [], 0
    for turn in turns:
        num_tokens += len(turn.tokens) + turn.max_tokens
        if num_tokens > context - _SEAM * len(turns):
            break
        fitting.append(turn)
    return tuple(fitting)


_SEAM = 4
"""Tokens by which a prompt may be longer than the sum of its parts, for each turn: see `Turn.tokens`."""
