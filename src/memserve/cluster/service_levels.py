"""How fast the cluster answers now: times to the first token and per token of the latest requests.

Owns the requests under way and the times of those of the last `window_s` seconds, at most 20,000. Knows no request
but by its id. What is told of one that is not known is ignored.

    began -> first_token -> ended + produced (in either order) -> forgotten
    began ----------------> ended + produced                      an answer in one piece: nobody saw its first token
    began -> dropped                                              failed, refused, or its client has left
"""

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Protocol

import msgspec

from memserve.core.clock import Clock
from memserve.core.ids import RequestId

_KEPT = 20_000


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster is to keep."""

    ttft_s: float
    """Time to the first token."""
    tpot_s: float
    """Time per output token after the first one."""
    share: float
    """Of the requests that are to be as fast, above 0 and below 1."""


class Levels(msgspec.Struct, frozen=True, kw_only=True):
    """Of one window. Without requests, all are 0."""

    num_requests: int = 0
    """First tokens in the window, and requests whose first token is late by now."""
    ttft_s: float = 0.0
    """So long, or less, for the wanted share of them."""
    num_answers: int = 0
    """Answers that ended in the window, with at least two tokens."""
    tpot_s: float = 0.0
    """So long, or less, for the wanted share of them."""
    fastest_tpot_s: float = 0.0
    """Of one answer since the start: what a token takes when nothing is in its way."""
    num_prompts: float = 0.0
    """Requests that wait for their first token, on average over the window (Little's law)."""


class LevelSource(Protocol):
    def now(self) -> Levels:
        """Of the window that ends now."""
        ...


class _Open(msgspec.Struct):
    """One request under way."""

    came: float
    is_streamed: bool
    first: float | None = None
    ended: float | None = None
    num_tokens: int | None = None


class ServiceLevels:
    """Of one gateway, or of one simulated cluster."""

    def __init__(self, *, clock: Clock, targets: Targets, window_s: float) -> None:
        self._clock = clock
        self._targets = targets
        self._window_s = window_s
        self._open: dict[RequestId, _Open] = {}
        self._ttft: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._tpot: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._fastest_s = inf

    def began(self, request: RequestId, *, at: float) -> None:
        """It came then and streams its answer: its first token is waited for."""
        self._remember(request, _Open(came=at, is_streamed=True))

    def began_whole(self, request: RequestId, *, at: float) -> None:
        """It came then and is answered in one piece."""
        self._remember(request, _Open(came=at, is_streamed=False))

    def first_token(self, request: RequestId) -> None:
        one = self._open.get(request)
        if one is not None and one.first is None:
            one.first = self._clock.now()
            self._ttft.append((one.first, one.first - one.came))

    def ended(self, request: RequestId) -> None:
        """Its last token is out."""
        one = self._open.get(request)
        if one is not None:
            one.ended = self._clock.now()
            self._settle(request, one)

    def produced(self, request: RequestId, num_tokens: int) -> None:
        """So many output tokens; may be told before or after the end."""
        one = self._open.get(request)
        if one is not None and one.num_tokens is None:
            one.num_tokens = num_tokens
            self._settle(request, one)

    def dropped(self, request: RequestId) -> None:
        self._open.pop(request, None)

    def now(self) -> Levels:
        """Of the window that ends now."""
        now = self._clock.now()
        for samples in (self._ttft, self._tpot):
            while samples and samples[0][0] < now - self._window_s:
                samples.popleft()
        ttft = [seconds for _, seconds in self._ttft]
        waiting = [now - one.came for one in self._open.values() if one.is_streamed and one.first is None]
        late = [seconds for seconds in waiting if seconds > self._targets.ttft_s]
        tpot = [seconds for _, seconds in self._tpot]
        in_work = sum(ttft) + sum(min(seconds, self._window_s) for seconds in waiting)
        return Levels(
            num_requests=len(ttft) + len(late),
            ttft_s=_quantile(ttft + late, self._targets.share),
            num_answers=len(tpot),
            tpot_s=_quantile(tpot, self._targets.share),
            fastest_tpot_s=self._fastest_s if tpot else 0.0,
            num_prompts=in_work / self._window_s,
        )

    def _remember(self, request: RequestId, one: _Open) -> None:
        """Reports may stay away for ever: the oldest request beyond the bound is forgotten."""
        self._open[request] = one
        if len(self._open) > _KEPT:
            del self._open[next(iter(self._open))]

    def _settle(self, request: RequestId, one: _Open) -> None:
        if one.ended is None or one.num_tokens is None:
            return
        del self._open[request]
        if one.first is None:
            self._split(one.ended, one.ended - one.came, one.num_tokens)
        elif one.num_tokens > 1:
            self._answered(one.ended, (one.ended - one.first) / (one.num_tokens - 1))

    def _split(self, at: float, seconds: float, num_tokens: int) -> None:
        """An answer in one piece counts as if both halves had kept their target, or missed it, alike."""
        targets = self._targets
        ratio = seconds / (targets.ttft_s + max(num_tokens - 1, 0) * targets.tpot_s)
        self._ttft.append((at, ratio * targets.ttft_s))
        if num_tokens > 1:
            self._answered(at, ratio * targets.tpot_s)

    def _answered(self, at: float, tpot_s: float) -> None:
        self._tpot.append((at, tpot_s))
        self._fastest_s = min(self._fastest_s, tpot_s)

    def __repr__(self) -> str:
        return f"ServiceLevels({len(self._open)} under way, {len(self._ttft)} in the last {self._window_s:g} s)"


def over_all(levels: Iterable[Levels]) -> Levels:
    """Of several processes that serve one cluster. Of a share of the requests of each, the slowest time counts."""
    parts = tuple(levels)
    fastest = [part.fastest_tpot_s for part in parts if part.fastest_tpot_s]
    return Levels(
        num_requests=sum(part.num_requests for part in parts),
        ttft_s=max((part.ttft_s for part in parts), default=0.0),
        num_answers=sum(part.num_answers for part in parts),
        tpot_s=max((part.tpot_s for part in parts), default=0.0),
        fastest_tpot_s=min(fastest, default=0.0),
        num_prompts=sum(part.num_prompts for part in parts),
    )


def _quantile(values: list[float], share: float) -> float:
    """The smallest value that this share of them does not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
