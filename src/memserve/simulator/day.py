"""A day's requests, made up: few at night, most in the afternoon, bursts now and then.

Owns the shape: the rate is `mean * (1 - swing * cos(2 pi t / day))`, the day may be shorter than 24 hours, and
bursts of a minute bring up to three times the requests. The same seed gives the same requests.
"""

from collections.abc import Iterator
from itertools import count
from math import cos, pi
from random import Random

import msgspec

from memserve.core.errors import ConfigError
from memserve.simulator.trace import BLOCK_TOKENS, Trace, TraceRequest

_SWING = 0.8
_BURST_S = 60.0
_BURST = 3.0
_BURSTS_AN_HOUR = 0.5


class DayShape(msgspec.Struct, frozen=True, kw_only=True):
    hours: float = 24.0
    per_s: float = 1.0
    """Requests a second, on average over the day and without the bursts."""
    prompt: tuple[int, int] = (4_000, 24_000)
    """Tokens, from and to."""
    output: tuple[int, int] = (50, 300)
    seed: int = 0

    def check(self) -> None:
        """Raise ConfigError for a day that nothing happens on."""
        if not (self.hours > 0 and self.per_s > 0):
            raise ConfigError(f"a day of {self.hours:g} h with {self.per_s:g} requests a second: give both above 0")


def day_named(name: str, *, seed: int) -> DayShape | None:
    """Of "day" or "day:HOURS"; None for any other name. Raises ConfigError on hours that are no number."""
    if name == "day":
        return DayShape(seed=seed)
    if not name.startswith("day:"):
        return None
    try:
        return DayShape(hours=float(name.removeprefix("day:")), seed=seed)
    except ValueError as error:
        raise ConfigError(f'"{name}": write day, or day:HOURS with a number, such as day:6') from error


def day(shape: DayShape) -> Trace:
    """Raises ConfigError for a shape that cannot be."""
    shape.check()
    random, names = Random(f"day {shape.seed}"), count()  # noqa: S311 - a workload, no secret
    requests = tuple(_request(random, names, at_s, shape) for at_s in _arrivals(random, shape))
    if not requests:
        raise ConfigError(f"a day of {shape.hours:g} h with {shape.per_s:g} requests a second has none: make it longer")
    return Trace(name="day", requests=requests)


def _arrivals(random: Random, shape: DayShape) -> Iterator[float]:
    """A Poisson process of changing rate, by thinning one of the highest rate."""
    length_s = shape.hours * 3600.0
    bursts = sorted(random.uniform(0, length_s) for _ in range(round(shape.hours * _BURSTS_AN_HOUR)))
    highest = shape.per_s * (1 + _SWING) * _BURST
    at_s = random.expovariate(highest)
    while at_s < length_s:
        rate = shape.per_s * (1 - _SWING * cos(2 * pi * at_s / length_s))
        if any(begin <= at_s < begin + _BURST_S for begin in bursts):
            rate *= _BURST
        if random.random() * highest < rate:
            yield at_s
        at_s += random.expovariate(highest)


def _request(random: Random, names: Iterator[int], at_s: float, shape: DayShape) -> TraceRequest:
    prompt_tokens = random.randint(*shape.prompt)
    blocks = tuple(next(names) for _ in range(-(-prompt_tokens // BLOCK_TOKENS)))
    return TraceRequest(
        at_s=at_s,
        prompt_tokens=prompt_tokens,
        output_tokens=random.randint(*shape.output),
        blocks=blocks,
        session=str(blocks[0]),
    )
