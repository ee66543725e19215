"""Made-up workloads, one for each way of loading a cluster: for tests, and for comparing layouts without a trace.

Owns their shapes. The rates load two instances of the profile `h800-llama2-13b-tp2` about half; `--speed` shifts
that. The same name and seed give the same requests.
"""

from collections.abc import Callable, Iterator
from itertools import count
from random import Random

from memserve.core.errors import ConfigError
from memserve.simulator.trace import BLOCK_TOKENS, Trace, TraceRequest

_Requests = Iterator[TraceRequest]


class _Names:
    """Block names that were not used before."""

    def __init__(self) -> None:
        self._next = count()

    def take(self, num_tokens: int) -> tuple[int, ...]:
        """For so many tokens, the last block partial."""
        return tuple(next(self._next) for _ in range(-(-num_tokens // BLOCK_TOKENS)))


def made_up(name: str, *, seed: int = 0) -> Trace:
    """Raises ConfigError, with the names, for a workload that there is not."""
    shape = _SHAPES.get(name)
    if shape is None:
        raise ConfigError(f'no workload "{name}": choose one of {", ".join(workload_names())}')
    requests = sorted(shape(Random(f"{name} {seed}"), _Names()), key=lambda request: request.at_s)  # noqa: S311
    return Trace(name=name, requests=tuple(requests))


def workload_names() -> tuple[str, ...]:
    return tuple(_SHAPES)


def _prefill_heavy(random: Random, names: _Names) -> _Requests:
    """Long prompts that share nothing, short answers."""
    for at_s in _poisson(random, per_s=2.5, number=300):
        yield _single(random, names, at_s, prompt=(4_000, 16_000), output=(8, 32))


def _decode_heavy(random: Random, names: _Names) -> _Requests:
    """Short prompts, long answers."""
    for at_s in _poisson(random, per_s=4.0, number=400):
        yield _single(random, names, at_s, prompt=(300, 1_000), output=(300, 900))


def _shared_prefix(random: Random, names: _Names) -> _Requests:
    """One system prompt of 6,144 tokens before every question."""
    prefix = names.take(12 * BLOCK_TOKENS)
    for at_s in _poisson(random, per_s=7.0, number=500):
        yield _single(random, names, at_s, prompt=(200, 1_500), output=(40, 160), prefix=prefix)


def _multi_turn(random: Random, names: _Names) -> _Requests:
    """Conversations whose every turn goes on after the last answer."""
    for number, begins_at in enumerate(_poisson(random, per_s=0.6, number=70)):
        at_s, tokens = begins_at, 0
        held: tuple[int, ...] = ()
        for _ in range(random.randint(3, 9)):
            asked, output = random.randint(300, 2_500), random.randint(60, 400)
            whole = tokens // BLOCK_TOKENS
            prompt = (*held[:whole], *names.take(tokens + asked - whole * BLOCK_TOKENS))
            after = (tokens + asked + output) // BLOCK_TOKENS
            kept = (*prompt[: (tokens + asked) // BLOCK_TOKENS], *names.take(output + BLOCK_TOKENS))[:after]
            yield TraceRequest(
                at_s=at_s,
                prompt_tokens=tokens + asked,
                output_tokens=output,
                blocks=prompt,
                session=f"conversation {number}",
                afterwards=kept,
            )
            held, tokens = kept, tokens + asked + output
            at_s += random.uniform(8.0, 30.0)


def _bursts(random: Random, names: _Names) -> _Requests:
    """Nothing for seconds, then many at once, prompts and answers of all lengths."""
    for burst in range(25):
        for at_s in _poisson(random, per_s=20.0, number=random.randint(8, 24)):
            yield _single(random, names, 8.0 * burst + at_s, prompt=(300, 8_000), output=(20, 400))


def _mixed(random: Random, names: _Names) -> _Requests:
    """Documents with short answers between chats with long ones: each is in the other's way."""
    for at_s in _poisson(random, per_s=3.0, number=400):
        if random.random() < 0.4:
            yield _single(random, names, at_s, prompt=(6_000, 14_000), output=(8, 40))
        else:
            yield _single(random, names, at_s, prompt=(300, 1_200), output=(200, 700))


_SHAPES: dict[str, Callable[[Random, _Names], _Requests]] = {
    "prefill-heavy": _prefill_heavy,
    "decode-heavy": _decode_heavy,
    "shared-prefix": _shared_prefix,
    "multi-turn": _multi_turn,
    "bursts": _bursts,
    "mixed": _mixed,
}


def _poisson(random: Random, *, per_s: float, number: int) -> Iterator[float]:
    at_s = 0.0
    for _ in range(number):
        at_s += random.expovariate(per_s)
        yield at_s


def _single(
    random: Random,
    names: _Names,
    at_s: float,
    *,
    prompt: tuple[int, int],
    output: tuple[int, int],
    prefix: tuple[int, ...] = (),
) -> TraceRequest:
    own = random.randint(*prompt)
    blocks = (*prefix, *names.take(own))
    return TraceRequest(
        at_s=at_s,
        prompt_tokens=len(prefix) * BLOCK_TOKENS + own,
        output_tokens=random.randint(*output),
        blocks=blocks,
        session=str(blocks[-1]),
    )
