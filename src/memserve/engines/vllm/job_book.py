"""Numbers the copy jobs of one engine and matches what the workers report to what was ordered.

Owns which job belongs to which part of which request. A job has ended when every rank has reported it.
"""

import itertools
from collections.abc import Iterator, Mapping

from memserve.engines.vllm.jobs import Commit, CopyJob, JobKind, JobResult, Pace, merge_results
from memserve.engines.vllm.outgoing import Outgoing
from memserve.engines.vllm.request_state import Loading, RequestState, Saving
from memserve.transport.rooms import RemoteRoom
from memserve.wire.messages import ArenaRef

Part = Loading | Saving | Outgoing


class JobBook:
    """Open jobs and those not yet given to the workers."""

    def __init__(self, *, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._numbers = itertools.count(1)
        self._owners: dict[int, tuple[RequestState, Part]] = {}
        self._queued: list[CopyJob] = []
        self._partial: dict[int, JobResult] = {}

    def open(
        self,
        state: RequestState,
        part: Part,
        *,
        kind: JobKind,
        arena: ArenaRef | None,
        pairs: tuple[tuple[int, ...], tuple[int, ...]],
        pace: Pace = Pace.AT_ONCE,
        commit: Commit | None = None,
        room: RemoteRoom | None = None,
    ) -> None:
        """Order a copy between pairs[0] of the engine and pairs[1] of the arena for the next step."""
        number = next(self._numbers)
        self._owners[number] = (state, part)
        state.open_jobs.add(number)
        self._queued.append(
            CopyJob(
                job=number,
                kind=kind,
                request=state.key,
                engine_blocks=pairs[0],
                arena_blocks=pairs[1],
                arena=arena,
                room=room,
                pace=pace,
                commit=commit,
            )
        )

    def take_queued(self) -> tuple[CopyJob, ...]:
        jobs, self._queued = tuple(self._queued), []
        return jobs

    def ended(self, results: Mapping[int, JobResult]) -> Iterator[tuple[RequestState, Part, JobResult]]:
        """Each job that these results complete, with its owner."""
        self._partial = merge_results(self._partial, dict(results))
        for number in [n for n, r in self._partial.items() if r.num_ranks >= self._num_ranks]:
            result = self._partial.pop(number)
            state, part = self._owners.pop(number)
            state.open_jobs.discard(number)
            yield state, part, result

    def __repr__(self) -> str:
        return f"JobBook({len(self._owners)} open, {len(self._queued)} queued)"
