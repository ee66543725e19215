"""What the instances say they did for one request, fetched from the gateway's admin routes.

Owns the reading of /admin/requests/{id}. The reports come a moment after the answer, when saves and sends
are done too; waiting for them is bounded, and a turn whose reports did not come is shown without facts.
"""

import asyncio

import aiohttp
import msgspec

from memserve.core.clock import Clock
from memserve.core.enums import Phase
from memserve.core.errors import InstanceUnavailable
from memserve.wire.messages import MovedBlocks, RequestReport

_WAIT_S = 2.0
_POLL_S = 0.05


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What went in one direction for one request."""

    num_blocks: int = 0
    num_tokens: int = 0
    num_bytes: int = 0
    paths: tuple[str, ...] = ()
    """Transports that carried the bytes, each once."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the prefill instance and the decode instance report it. Tokens of the prompt."""

    hbm_tokens: int
    """Found at the prefill instance in the engine's own cache."""
    dram_tokens: int
    """Found at the prefill instance in the pool, what came back from the decode instance included."""
    computed_tokens: int
    """Computed at the prefill instance."""
    decode_computed_tokens: int
    sent: Moved
    returned: Moved
    """From the decode instance to the prefill instance."""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the gateway's record that is read here."""

    reports: tuple[RequestReport, ...] = ()


class FactsReader:
    """A client of the admin routes. The session belongs to the caller."""

    def __init__(self, *, url: str, session: aiohttp.ClientSession, clock: Clock) -> None:
        self._url = url
        self._session = session
        self._clock = clock

    async def read(self, request: str) -> Facts | None:
        """Facts of a finished request; None when the reports of both phases did not come within 2 s."""
        deadline = self._clock.now() + _WAIT_S
        while True:
            facts = facts_of(await self._reports(request))
            if facts is not None or self._clock.now() >= deadline:
                return facts
            await asyncio.sleep(_POLL_S)

    async def _reports(self, request: str) -> tuple[RequestReport, ...]:
        target = f"{self._url}/admin/requests/{request}"
        try:
            async with self._session.get(target, timeout=aiohttp.ClientTimeout(total=_WAIT_S)) as answer:
                body = await answer.read()
                if answer.status != 200:
                    return ()
                return msgspec.json.decode(body, type=_Record).reports
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise InstanceUnavailable(f"cannot read {target}: {error or type(error).__name__}") from error


def facts_of(reports: tuple[RequestReport, ...]) -> Facts | None:
    """Put the two halves together; None while one is missing."""
    prefill = next((report for report in reports if report.phase is Phase.PREFILL), None)
    decode = next((report for report in reports if report.phase is Phase.DECODE), None)
    if prefill is None or decode is None:
        return None
    moved = (*prefill.moved, *decode.moved)
    return Facts(
        hbm_tokens=prefill.hbm_tokens,
        dram_tokens=prefill.dram_tokens + prefill.disk_tokens + prefill.received_tokens,
        computed_tokens=prefill.computed_tokens,
        decode_computed_tokens=decode.computed_tokens,
        sent=_sum(tuple(part for part in moved if part.source == prefill.instance)),
        returned=_sum(tuple(part for part in moved if part.source == decode.instance)),
    )


def _sum(parts: tuple[MovedBlocks, ...]) -> Moved:
    return Moved(
        num_blocks=sum(part.num_blocks for part in parts),
        num_tokens=sum(part.num_tokens for part in parts),
        num_bytes=sum(part.num_bytes for part in parts),
        paths=tuple(sorted({part.path for part in parts})),
    )
