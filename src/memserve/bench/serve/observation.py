"""Where the tokens of a cell's prompts came from, as each kind of system tells it.

Owns the reading of memserve's admin routes, of vLLM's metrics, and of the usage in answers. A system that does not
tell is None, never 0. What an instance reports comes a moment after the answer; waiting for it is bounded.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from memserve.bench.serve.player import Played
from memserve.core.enums import Phase
from memserve.core.errors import InstanceUnavailable
from memserve.wire.messages import RequestReport

_DEADLINE = aiohttp.ClientTimeout(total=30.0)
_REPORTS_S, _POLL_S = 3.0, 0.1
_MAX_RECORDS = 10_000
_COUNTERS = ("vllm:prefix_cache_hits_total", "vllm:external_prefix_cache_hits_total", "vllm:nixl_bytes_transferred_sum")


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Of one cell. Tokens of prompts, where they are computed."""

    hbm_tokens: int
    dram_tokens: int = 0
    disk_tokens: int = 0
    moved_bytes: int = 0
    cached: Mapping[str, int] | None = None
    """Cached tokens by request; None when the system tells sums only."""


class _Record(msgspec.Struct, frozen=True):
    request: str
    reports: tuple[RequestReport, ...] = ()


class _Records(msgspec.Struct, frozen=True):
    requests: tuple[_Record, ...]


class VllmCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Since the servers started: hits at those that prefill, bytes at all."""

    hit_tokens: int
    external_tokens: int
    moved_bytes: int


def observed_in_answers(played: Iterable[Played]) -> Observed:
    """Of engines that do all of a request and tell in its usage what they had cached."""
    cached = {each.request: each.answer.cached_tokens for each in played if each.answer is not None}
    return Observed(hbm_tokens=sum(cached.values()), cached=cached)


def observed_in_counters(before: VllmCounters, after: VllmCounters) -> Observed:
    """Of engines between which requests are split: an answer's usage would count what was handed over as cached."""
    return Observed(
        hbm_tokens=after.hit_tokens - before.hit_tokens,
        dram_tokens=after.external_tokens - before.external_tokens,
        moved_bytes=after.moved_bytes - before.moved_bytes,
    )


async def read_counters(
    http: aiohttp.ClientSession, *, prefilling: Sequence[str], others: Sequence[str]
) -> VllmCounters:
    """Of vLLM servers by URL. Raises InstanceUnavailable."""
    sums = dict.fromkeys(_COUNTERS, 0.0)
    for url in (*prefilling, *others):
        for family in text_string_to_metric_families((await _get(http, f"{url}/metrics")).decode()):
            for sample in family.samples:
                if sample.name in sums and (url in prefilling or "bytes" in sample.name):
                    sums[sample.name] += sample.value
    hits, external, moved = (int(sums[name]) for name in _COUNTERS)
    return VllmCounters(hit_tokens=hits, external_tokens=external, moved_bytes=moved)


async def read_reports(http: aiohttp.ClientSession, *, url: str, played: Sequence[Played]) -> Observed:
    """Of a memserve gateway. Raises InstanceUnavailable."""
    wanted = {each.request for each in played if each.answer is not None}
    deadline = asyncio.get_running_loop().time() + _REPORTS_S
    while True:
        body = await _get(http, f"{url}/admin/requests?limit={_MAX_RECORDS}")
        records = {r.request: r for r in msgspec.json.decode(body, type=_Records).requests if r.request in wanted}
        told = [request for request, record in records.items() if _is_complete(record)]
        if len(told) == len(wanted) or asyncio.get_running_loop().time() > deadline:
            return observed_in_reports({request: record.reports for request, record in records.items()})
        await asyncio.sleep(_POLL_S)


def observed_in_reports(reports: Mapping[str, Sequence[RequestReport]]) -> Observed:
    """What instances of memserve did for each request."""
    prefills = {name: [r for r in each if r.phase is not Phase.DECODE] for name, each in reports.items()}
    every = [report for each in prefills.values() for report in each]
    return Observed(
        hbm_tokens=sum(report.hbm_tokens for report in every),
        dram_tokens=sum(report.dram_tokens for report in every),
        disk_tokens=sum(report.disk_tokens for report in every),
        moved_bytes=sum(moved.num_bytes for each in reports.values() for report in each for moved in report.moved),
        cached={
            name: sum(report.hbm_tokens + report.dram_tokens + report.disk_tokens for report in each)
            for name, each in prefills.items()
        },
    )


def _is_complete(record: _Record) -> bool:
    """Both halves, or the one that did all."""
    phases = {report.phase for report in record.reports}
    return Phase.WHOLE in phases or {Phase.PREFILL, Phase.DECODE} <= phases


async def _get(http: aiohttp.ClientSession, url: str) -> bytes:
    try:
        async with http.get(url, timeout=_DEADLINE) as answer:
            body = await answer.read()
            if answer.status != 200:
                raise InstanceUnavailable(f"{url} answered {answer.status}")
            return body
    except (aiohttp.ClientError, TimeoutError) as error:
        raise InstanceUnavailable(f"cannot read {url}: {error or type(error).__name__}") from error
