"""What every study is given and gives: an errand in, an answer out. Owns no measurement."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import msgspec

from memserve.bench.child import Say
from memserve.bench.study.client import StudyClient
from memserve.bench.study.record import Answer, Question, Size
from memserve.config import ServeConfig

Served = Callable[[ServeConfig], AbstractAsyncContextManager[StudyClient]]
"""A client of a cluster with these settings, for the length of a block."""


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a study."""

    size: Size
    seed: int
    say: Say
    served: Served


class Study(msgspec.Struct, frozen=True, kw_only=True):
    question: Question
    setting: str
    """What serves, in words."""
    run: Callable[[Errand], Awaitable[Answer]]
