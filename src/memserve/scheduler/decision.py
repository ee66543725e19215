"""The outcome of routing one request, with what it was weighed against."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from memserve.core.enums import Phase, Role, Tier
from memserve.core.ids import Epoch, InstanceId, RequestId

MAX_CANDIDATES = 8
"""Kept of each phase: decisions are remembered by the thousand."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One instance as the policy saw it."""

    instance: InstanceId
    role: Role
    phase: Phase = Phase.WHOLE
    """What it was weighed for."""
    matched_tokens: int
    """Leading prompt tokens that the prompt tree says it holds."""
    queued_tokens: int
    """Prompt tokens that it still has to compute for others."""
    wait_s: float = 0.0
    """Predicted until all of them are computed."""
    score: float
    """Lower is better; the policy gives the unit."""


class PullWeighing(msgspec.Struct, frozen=True, kw_only=True):
    """Whether to have a prefix from another instance, in predicted seconds."""

    source: InstanceId
    """Of all candidates, one that holds most of the prompt."""
    gained_tokens: int
    """What it holds beyond the instance that computes."""
    num_bytes: int
    transfer_s: float
    recompute_s: float
    queue_s: float = 0.0
    """Until the path between the two is free."""

    @property
    def is_worth_it(self) -> bool:
        return self.queue_s + self.transfer_s < self.recompute_s


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What the chosen way is expected to take until the first token, in seconds, step after step."""

    queue_s: float
    """Until those before it are computed."""
    pull_s: float
    """Until what another instance holds has come."""
    prefill_s: float
    handover_s: float
    """Until the decode instance has what it lacks; sent layer by layer, most of it is hidden behind the prefill."""

    @property
    def first_token_s(self) -> float:
        return self.queue_s + self.pull_s + self.prefill_s + self.handover_s


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Serve on `decode` alone when `prefill` is None, else prefill there and hand the KV over."""

    request: RequestId
    epoch: Epoch
    policy: str
    prefill: InstanceId | None
    decode: InstanceId
    candidates: Sequence[Candidate]
    """Of each phase the chosen one, then the next best, up to MAX_CANDIDATES; first phase first."""
    source: InstanceId | None = None
    """Where the instance that computes the prompt pulls a longer prefix from before it computes."""
    pull: PullWeighing | None = None
    """The numbers behind `source`, also when it is None; None when nobody else holds more."""
    forecast: Forecast | None = None
    """None when the scheduler was given nothing to predict with."""
    tiers: dict[Tier, int] = msgspec.field(default_factory=dict)
    """Where the instance that computes the prompt has what it holds of it, in tokens."""


class Placement(StrEnum):
    """The kinds of decision, for the metrics."""

    ALONE = "alone"
    ALONE_PULLING = "alone-pulling"
    """One instance serves the request and first pulls what another one holds."""
    SPLIT = "split"
    SPLIT_PULLING = "split-pulling"


def placement(decode: Candidate | None, source: InstanceId | None) -> Placement:
    """Of a decision with this decode instance beside the one that computes, and with this source of a pull."""
    if source is None:
        return Placement.ALONE if decode is None else Placement.SPLIT
    return Placement.ALONE_PULLING if decode is None else Placement.SPLIT_PULLING


class Outcome(StrEnum):
    """What became of a request, for the scheduler."""

    SERVED = "served"
    FAILED = "failed"
    """Broken off, refused or abandoned: nothing may be concluded about what its instances hold."""
