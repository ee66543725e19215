"""A report as text: one line a row, one line a missing system."""

from collections.abc import Iterator

from memserve.bench.records import Report, Row

_HEADER = (
    *("system", "operation", "where", "input", "blocks", "calls"),
    *("p50 us", "p25-p75", "p99", "GB/s", "blocks/s", "bytes/block", "n"),
)


def as_lines(report: Report) -> Iterator[str]:
    """Aligned, header first."""
    cells = [_HEADER, *(_cells(row) for row in report.results)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADER))]
    for line in cells:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
    for missing in report.missing:
        yield f"missing: {missing.system}: {missing.reason}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row.system} {row.version}",
        row.operation,
        row.tree or row.path,
        row.input,
        str(row.blocks or ""),
        str(row.calls or ""),
        _number(row.p50_us),
        f"{_number(row.p25_us)}-{_number(row.p75_us)}" if row.p50_us else "",
        _number(row.p99_us),
        f"{row.gb_per_s:.2f}" if row.gb_per_s else "",
        str(row.blocks_per_s or ""),
        str(row.size_bytes or ""),
        str(row.count or ""),
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if 0 < value < 1000 else f"{value:.0f}" if value else ""
