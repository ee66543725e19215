"""From what was played and observed to the lines of a cell. Pure."""

from collections.abc import Sequence

import msgspec

from memserve.bench.serve.journal import Answers
from memserve.bench.serve.measures import is_saturated, times_of
from memserve.bench.serve.observation import Observed
from memserve.bench.serve.player import Played
from memserve.bench.serve.record import Cell, RequestLine, ServeResult


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What all cells of a run have in common. Field names are those of ServeResult."""

    sessions: int
    seed: int
    commit: str
    machine: str
    run: str


def request_lines(cell: Cell, played: Sequence[Played], observed: Observed) -> list[RequestLine]:
    """Of those that were answered."""
    return [
        RequestLine(
            **msgspec.structs.asdict(cell),
            session=each.session,
            turn=each.turn,
            arrival_s=round(each.arrival_s, 5),
            prompt_tokens=each.answer.prompt_tokens,
            output_tokens=len(each.answer.tokens),
            cached_tokens=None if observed.cached is None else observed.cached.get(each.request),
            ttft_s=round(each.answer.ttft_s, 5),
            jct_s=round(each.answer.jct_s, 5),
            answer=each.answer.digest,
        )
        for each in played
        if each.answer is not None
    ]


def make_result(
    cell: Cell,
    lines: Sequence[RequestLine],
    *,
    origin: Origin,
    observed: Observed,
    failed: Sequence[Played],
    last_arrival_s: float,
    cpu_s: float,
    started: str,
    reference: tuple[str, Answers],
) -> ServeResult:
    """Of at least one answered request. `reference` is a system and its answers; ("", ...): there is none but this."""
    prompt_tokens = sum(line.prompt_tokens for line in lines)
    name, answers = reference
    num_identical = sum(not name or answers.get((line.session, line.turn)) == line.answer for line in lines)
    return ServeResult(
        **msgspec.structs.asdict(cell),
        **msgspec.structs.asdict(origin),
        **msgspec.structs.asdict(times_of(lines)),
        requests=len(lines),
        failed=len(failed),
        prompt_tokens=prompt_tokens,
        output_tokens=sum(line.output_tokens for line in lines),
        hit_ratio=_share(observed.hbm_tokens + observed.dram_tokens + observed.disk_tokens, prompt_tokens),
        hbm_hit_ratio=_share(observed.hbm_tokens, prompt_tokens),
        dram_hit_ratio=_share(observed.dram_tokens, prompt_tokens),
        disk_hit_ratio=_share(observed.disk_tokens, prompt_tokens),
        moved_bytes=observed.moved_bytes,
        cpu_s=round(cpu_s, 2),
        reference=name or cell.system,
        num_identical=num_identical,
        tokens_identical=num_identical == len(lines) and not failed,
        is_saturated=any(each.is_late for each in failed) or is_saturated(lines, last_arrival_s=last_arrival_s),
        started=started,
    )


def _share(tokens: int, of: int) -> float:
    return round(tokens / of, 5)
