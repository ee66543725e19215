"""A study as text: one line for each place, one column for each series and quantity, and what follows from them."""

from collections.abc import Iterator

from memserve.bench.study.record import Quantity, StudyReport


def study_rows(report: StudyReport, quantity: Quantity) -> list[list[str]]:
    """Header first: the place, then the median of each series with its quartiles."""
    points = {(p.series, p.x): p for p in report.results if p.quantity == quantity.name}
    series = list(dict.fromkeys(name for name, _ in points))
    rows = [[report.question.x.label, *(name for name in series)]]
    for x in sorted({x for _, x in points}):
        cells = [points.get((name, x)) for name in series]
        rows.append([f"{x:g}", *("" if p is None else f"{p.p50:.3g} ({p.p25:.3g} to {p.p75:.3g})" for p in cells)])
    return rows


def study_lines(report: StudyReport) -> Iterator[str]:
    """For a terminal."""
    for quantity in report.question.quantities:
        rows = study_rows(report, quantity)
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        yield f"{quantity.label}: median (quartiles)".replace("_", " ")
        for row in rows:
            yield "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    yield from report.findings
    for missing in report.missing:
        yield f"missing: {missing.system}: {missing.reason}"
