"""Which prompts are sent to learn what an engine costs, and which of them only judge what was learnt.

Owns the shapes of the measurement. Pure: lengths in tokens come out, nothing is sent here.

A chain is one prompt that grows: each step is sent whole and finds the step before in the cache, so every step
is a sample of exec(x, y) at another ratio y, and a chain costs no more tokens than its last step has.
"""

from collections.abc import Sequence

import msgspec

_FIT_CHAINS = ((1, 2, 4, 8, 16, 32), (4, 12, 24, 32), (16, 32), (2, 6), (8, 20, 28), (1, 10))
"""In parts of the longest prompt, of 32."""
_JUDGE_CHAINS = ((5, 11, 22, 30), (14, 26), (3, 7, 18))
_PARTS = 32
_FIT_BATCHES = (1, 2, 4)
_JUDGE_BATCHES = (3,)
_FIT_CONTEXTS = (4, 16, 30)
_JUDGE_CONTEXTS = (10, 24)
_FIT_BLOCKS = (1, 2, 4, 8, 16, 32)
_JUDGE_BLOCKS = (3, 6, 12, 24)


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """One growing prompt, by its lengths in tokens, shortest first."""

    lengths: tuple[int, ...]
    judges: bool
    """Not used for the fit."""


class DecodeRun(msgspec.Struct, frozen=True, kw_only=True):
    """So many sequences decoded side by side, each behind a context of so many tokens."""

    batch: int
    context_tokens: int
    judges: bool


class Moves(msgspec.Struct, frozen=True, kw_only=True):
    """Prefixes of so many blocks to be moved."""

    num_blocks: int
    judges: bool


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """One round of everything; rounds are repeated as long as there is time."""

    chains: tuple[Chain, ...]
    decodes: tuple[DecodeRun, ...]
    moves: tuple[Moves, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(length for chain in self.chains for length in chain.lengths)


def schedule(*, longest: int, block_size: int) -> Schedule:
    """`longest` prompt in tokens; all lengths are whole blocks and a token, since the last one is always computed."""
    fit = [Chain(lengths=_lengths(c, longest, block_size), judges=False) for c in _FIT_CHAINS]
    judge = [Chain(lengths=_lengths(c, longest, block_size), judges=True) for c in _JUDGE_CHAINS]
    decodes = [
        DecodeRun(batch=batch, context_tokens=_length(part, longest, block_size), judges=judges)
        for judges, batches, contexts in (
            (False, _FIT_BATCHES, _FIT_CONTEXTS),
            (True, _JUDGE_BATCHES, _JUDGE_CONTEXTS),
        )
        for batch in batches
        for part in contexts
    ]
    most = longest // block_size
    moves = [
        Moves(num_blocks=count, judges=judges)
        for judges, counts in ((False, _FIT_BLOCKS), (True, _JUDGE_BLOCKS))
        for count in counts
        if count <= most
    ]
    moves.sort(key=lambda move: move.num_blocks)  # whatever drifts meanwhile weighs on the fit as on its judges
    return Schedule(chains=(*fit, *judge), decodes=tuple(decodes), moves=tuple(moves))


def longest_prompt(*, tokens_per_s: float, seconds: float, block_size: int, most: int) -> int:
    """Tokens of the longest prompt so that two rounds of chains take about `seconds`; from 8 blocks to `most`."""
    per_round = sum(max(chain) for chain in (*_FIT_CHAINS, *_JUDGE_CHAINS)) / _PARTS
    wanted = int(tokens_per_s * seconds / (2 * per_round))
    return max(8 * block_size, min(wanted, most) // block_size * block_size)


def _lengths(chain: Sequence[int], longest: int, block_size: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_length(part, longest, block_size) for part in chain))


def _length(part: int, longest: int, block_size: int) -> int:
    return max(1, longest * part // _PARTS // block_size) * block_size + 1
