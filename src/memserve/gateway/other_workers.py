"""The other processes that serve at the same port, as worker 0's routes see them. Owns no behaviour but of nobody."""

from typing import Protocol

import msgspec

from memserve.gateway.worker_messages import AppReply, Books


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the gateway."""

    worker: int
    pid: int
    """0: it is not there."""
    num_in_flight: int
    num_restarts: int


class OtherWorkers(Protocol):
    def states(self) -> tuple[WorkerState, ...]:
        """Of all but this one; () where there are no others."""
        ...

    def books(self) -> tuple[Books, ...]:
        """Of those that are there, as they told the last time."""
        ...

    async def ask(self, path: str, query: bytes = b"") -> dict[int, AppReply]:
        """GET it of each of them, by number; who does not answer in time is left out."""
        ...

    async def ask_owner(self, worker: int, path: str) -> AppReply | None:
        """GET it of this one. None when there is no such worker, or it does not answer in time."""
        ...

    async def follow_choices(self) -> None:
        """Until all that are there go by what was chosen here, or have not told so in time: they will, then."""
        ...


class _Nobody:
    def states(self) -> tuple[WorkerState, ...]:
        return ()

    def books(self) -> tuple[Books, ...]:
        return ()

    async def ask(self, path: str, query: bytes = b"") -> dict[int, AppReply]:
        return {}

    async def ask_owner(self, worker: int, path: str) -> AppReply | None:
        return None

    async def follow_choices(self) -> None:
        """There is nobody to follow."""


NO_OTHERS: OtherWorkers = _Nobody()
"""The gateway is one process."""
