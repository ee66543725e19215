"""What the scheduler side tells the worker side each step, and what comes back.

vLLM carries these objects from its scheduler process to each worker process. Block numbers of the
engine index its paged KV tensors; blocks of an arena are positions in shared memory. Owns no state.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata

from memserve.transport.rooms import RemoteRoom
from memserve.wire.messages import ArenaRef, CommitRequest, PeerInfo


class JobKind(StrEnum):
    LOAD = "load"
    """Own arena -> engine."""
    SAVE = "save"
    """Engine -> own arena."""
    SEND = "send"
    """Engine -> another instance's arena."""


class Pace(StrEnum):
    AT_ONCE = "at-once"
    """The bytes are there: copy all layers of each block in one piece."""
    BY_LAYER = "by-layer"
    """The coming forward writes them: copy each layer when its attention is done."""


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """To be sent by each worker when its part of the transfer is written."""

    peer: PeerInfo
    request: CommitRequest


class CopyJob(msgspec.Struct, frozen=True, kw_only=True):
    """Copy engine_blocks[i] <-> arena_blocks[i] for all i; the two tuples have one length."""

    job: int
    kind: JobKind
    request: str
    """vLLM's id of the request that keeps the engine blocks alive."""
    engine_blocks: tuple[int, ...]
    arena_blocks: tuple[int, ...]
    arena: ArenaRef | None
    """None: another host's, to be reached through `room`."""
    room: RemoteRoom | None = None
    pace: Pace = Pace.AT_ONCE
    commit: Commit | None = None
    """Set on the last job of a transfer."""


@dataclass
class StepPlan(KVConnectorMetadata):  # type: ignore[misc]
    """One engine step's work for every worker."""

    jobs: tuple[CopyJob, ...] = ()
    released: tuple[str, ...] = ()
    """Finished requests whose engine blocks nothing reads any more."""
    settle_first: bool = False
    """A request was preempted: its blocks may be overwritten, so copies in flight must end before the forward."""


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    num_ranks: int
    failed: bool
    seconds: float
    num_calls: int

    def merged(self, other: "JobResult") -> "JobResult":
        return JobResult(
            num_ranks=self.num_ranks + other.num_ranks,
            failed=self.failed or other.failed,
            seconds=max(self.seconds, other.seconds),
            num_calls=self.num_calls + other.num_calls,
        )


@dataclass
class JobsDone(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """Jobs that ended since the last step, by number, over the ranks merged so far."""

    results: dict[int, JobResult] = field(default_factory=dict)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "JobsDone":
        if not isinstance(other, JobsDone):
            raise TypeError(f"cannot merge {type(other).__name__} into JobsDone")
        return JobsDone(results=merge_results(self.results, other.results))


def merge_results(left: dict[int, JobResult], right: dict[int, JobResult]) -> dict[int, JobResult]:
    """Union of both; where a job is in both, its ranks add up."""
    merged = dict(left)
    for job, result in right.items():
        merged[job] = merged[job].merged(result) if job in merged else result
    return merged
