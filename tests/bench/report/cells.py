"""Cells of `memserve bench serve` as tests want them. Not a test."""

import msgspec

from memserve.bench.serve.record import ServeResult

CELL = ServeResult(
    system="basic",
    workload="sharegpt",
    rate=0.1,
    repetition=1,
    requests=10,
    failed=0,
    sessions=3,
    seed=0,
    prompt_tokens=1000,
    output_tokens=100,
    seconds=60.0,
    ttft_avg_s=2.0,
    ttft_p50_s=2.0,
    ttft_p99_s=4.0,
    tpot_avg_s=0.1,
    tpot_p50_s=0.1,
    tpot_p99_s=0.2,
    jct_avg_s=4.0,
    jct_p50_s=4.0,
    jct_p99_s=8.0,
    requests_per_s=0.2,
    tokens_per_s=2.0,
    hit_ratio=None,
    hbm_hit_ratio=None,
    dram_hit_ratio=None,
    disk_hit_ratio=None,
    moved_bytes=1 << 20,
    cpu_s=30.0,
    reference="basic",
    num_identical=10,
    tokens_identical=True,
    is_saturated=False,
    started="2026-01-01T00:00:00+00:00",
    commit="abc",
    machine="2x a processor",
    run="1",
)


def cell(system: str, **fields: object) -> ServeResult:
    """CELL with another system and these fields."""
    return msgspec.structs.replace(CELL, system=system, **fields)


def lines(*cells: ServeResult) -> bytes:
    """As they stand in a file."""
    return b"".join(msgspec.json.encode(each) + b"\n" for each in cells)
