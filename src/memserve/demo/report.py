"""The outcome of a demo run: one row a turn, the ratios, the verdict, and the JSON file.

Owns the names in that file, on which others rely. Pure: no I/O.
"""

from collections.abc import Sequence

import msgspec

from memserve.demo.facts import Facts
from memserve.demo.player import Answer, Turn


class TurnRow(msgspec.Struct, frozen=True, kw_only=True):
    """One turn. What the instances tell is None when their reports did not come in time."""

    conversation: int
    turn: int
    prompt_tokens: int
    cached_tokens: int | None = None
    """Found at the prefill instance, all tiers."""
    cached_hbm_tokens: int | None = None
    cached_dram_tokens: int | None = None
    computed_tokens: int | None = None
    """Computed at the prefill instance."""
    decode_computed_tokens: int | None = None
    moved_blocks: int | None = None
    """From the prefill instance to the decode instance, as are bytes and path."""
    moved_bytes: int | None = None
    moved_path: str | None = None
    returned_blocks: int | None = None
    returned_tokens: int | None = None
    ttft_s: float
    jct_s: float
    plain_ttft_s: float
    plain_jct_s: float
    output_tokens: int
    tokens_identical: bool


class DemoReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run. Ratios are ours over plain vLLM, sums over the turns after the first of each conversation."""

    model: str
    tokens_identical: bool
    num_identical: int
    ttft_ratio: float
    jct_ratio: float
    turns: tuple[TurnRow, ...]


def make_report(
    *, model: str, turns: Sequence[Turn], facts: Sequence[Facts | None], plain: Sequence[Answer]
) -> DemoReport:
    """Put what was measured together; the three sequences run in parallel, one entry a turn."""
    rows = tuple(_row(turn, known, answer) for turn, known, answer in zip(turns, facts, plain, strict=True))
    later = [row for row in rows if row.turn > 1]
    identical = sum(row.tokens_identical for row in rows)
    return DemoReport(
        model=model,
        tokens_identical=bool(rows) and identical == len(rows),
        num_identical=identical,
        ttft_ratio=sum(row.ttft_s for row in later) / sum(row.plain_ttft_s for row in later),
        jct_ratio=sum(row.jct_s for row in later) / sum(row.plain_jct_s for row in later),
        turns=rows,
    )


def _row(turn: Turn, facts: Facts | None, plain: Answer) -> TurnRow:
    row = TurnRow(
        conversation=turn.conversation,
        turn=turn.turn,
        prompt_tokens=turn.answer.prompt_tokens,
        ttft_s=turn.answer.ttft_s,
        jct_s=turn.answer.jct_s,
        plain_ttft_s=plain.ttft_s,
        plain_jct_s=plain.jct_s,
        output_tokens=len(turn.answer.token_ids),
        tokens_identical=turn.answer.same_tokens(plain),
    )
    return row if facts is None else _with_facts(row, facts)


def _with_facts(row: TurnRow, facts: Facts) -> TurnRow:
    return msgspec.structs.replace(
        row,
        cached_tokens=facts.hbm_tokens + facts.dram_tokens,
        cached_hbm_tokens=facts.hbm_tokens,
        cached_dram_tokens=facts.dram_tokens,
        computed_tokens=facts.computed_tokens,
        decode_computed_tokens=facts.decode_computed_tokens,
        moved_blocks=facts.sent.num_blocks,
        moved_bytes=facts.sent.num_bytes,
        moved_path=", ".join(facts.sent.paths),
        returned_blocks=facts.returned.num_blocks,
        returned_tokens=facts.returned.num_tokens,
    )
