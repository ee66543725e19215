"""A study as charts: one panel for each quantity, one line for each series, quartiles as a band."""

from memserve.bench.charts import Line, LineChart
from memserve.bench.study.record import Quantity, StudyReport

_WIDE, _TALL = 8.0, 20.0
"""Places and values that lie further apart than these factors get a logarithmic axis."""


def study_charts(report: StudyReport) -> list[LineChart]:
    """One for each quantity that was measured."""
    charts = [_chart(report, quantity) for quantity in report.question.quantities]
    return [chart for chart in charts if chart.lines]


def _chart(report: StudyReport, quantity: Quantity) -> LineChart:
    points = [point for point in report.results if point.quantity == quantity.name]
    lines = []
    for series in dict.fromkeys(point.series for point in points):
        own = sorted((point for point in points if point.series == series), key=lambda point: point.x)
        lines.append(
            Line(
                label=series,
                x=tuple(point.x for point in own),
                y=tuple(point.p50 for point in own),
                low=tuple(point.p25 for point in own),
                high=tuple(point.p75 for point in own),
            )
        )
    places = [point.x for point in points if point.x > 0] or [1.0]
    values = [point.p50 for point in points if point.p50 > 0] or [1.0]
    return LineChart(
        title=quantity.name.replace("_", " "),
        x=report.question.x.label,
        y=quantity.label.replace("_", " "),
        lines=tuple(lines),
        log_x=max(places) / min(places) >= _WIDE,
        log_y=max(values) / min(values) >= _TALL,
    )
