"""Sessions of `memserve bench serve` as a trace for the simulator.

Owns the names of blocks: blocks with the same tokens after the same tokens have the same name, whoever asked, so all
that sessions share is shared. Answers are tokens that nobody else has.
"""

from collections.abc import Mapping, Sequence
from random import Random

import msgspec

from memserve.bench.serve.sessions import Session
from memserve.simulator.trace import Trace, TraceRequest

Sent = Mapping[tuple[int, int], float]
"""When a turn was really sent, by place of the session and of the turn."""

_Chunk = tuple[int, ...]


def trace_of(sessions: Sequence[Session], *, name: str, block_tokens: int, sent: Sent | None = None) -> Trace:
    """Turns that wait for the answer before them, or, with `sent`, those turns at those times and no others."""
    names = _Names(block_tokens)
    requests: list[tuple[tuple[int, int], TraceRequest]] = []
    for number, session in enumerate(sessions):
        tokens: list[int] = []
        for place, turn in enumerate(session.turns):
            tokens += turn.tokens
            prompt, length = names.of(tokens), len(tokens)
            tokens += names.answer(turn.max_tokens)
            request = TraceRequest(
                at_s=session.arrival_s if sent is None else sent.get((number, place), -1.0),
                prompt_tokens=length,
                output_tokens=turn.max_tokens,
                blocks=prompt,
                session=str(number),
                afterwards=names.of(tokens[: len(tokens) // block_tokens * block_tokens]),
                think_s=turn.think_s,
            )
            if sent is None or (number, place) in sent:
                requests.append(((number, place), request))
    requests.sort(key=lambda each: (each[1].at_s, each[0]))
    return Trace(name=name, requests=_in_chains(requests, wait=sent is None), block_tokens=block_tokens)


def by_request(trace: Trace, *, seed: int) -> Trace:
    """All sessions' turns in a random order that keeps each session's own: Poisson, one a second on average.

    A turn that is drawn before the answer before it is complete comes right after that.
    """
    random = Random(f"requests {seed}")  # noqa: S311 - a seeded load
    order = [request.session for request in trace.requests]
    random.shuffle(order)
    turns: dict[str, list[TraceRequest]] = {}
    for request in reversed(trace.requests):
        turns.setdefault(request.session, []).append(request)
    requests: list[TraceRequest] = []
    last: dict[str, int] = {}
    at_s = 0.0
    for place, session in enumerate(order):
        request = turns[session].pop()
        requests.append(msgspec.structs.replace(request, at_s=at_s, after=last.get(session), think_s=0.0))
        last[session] = place
        at_s += random.expovariate(1.0)
    return msgspec.structs.replace(trace, requests=tuple(requests))


def _in_chains(requests: Sequence[tuple[tuple[int, int], TraceRequest]], *, wait: bool) -> tuple[TraceRequest, ...]:
    """Each turn names the one before it, where it is to wait for that."""
    places = {turn: place for place, (turn, _) in enumerate(requests)}
    return tuple(
        msgspec.structs.replace(request, after=places.get((number, turn - 1)) if wait else None)
        for (number, turn), request in requests
    )


class _Names:
    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._known: dict[tuple[int, _Chunk], int] = {}
        self._answered = 0

    def of(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Of all blocks, a partial one at the end included."""
        found: list[int] = []
        before = -1
        for begin in range(0, len(tokens), self._block_tokens):
            chunk = before, tuple(tokens[begin : begin + self._block_tokens])
            before = self._known.setdefault(chunk, len(self._known))
            found.append(before)
        return tuple(found)

    def answer(self, count: int) -> range:
        """Tokens below 0, which no vocabulary has."""
        self._answered += count
        return range(-self._answered, count - self._answered)
