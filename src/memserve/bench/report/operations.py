"""The sections of the index and of the memory calls: medians by operation, size and system."""

from collections.abc import Sequence
from pathlib import Path

from memserve.bench.charts import BarChart, Bars, Line, LineChart
from memserve.bench.records import Report, Row
from memserve.bench.report.section import Block, Drawing, Section, missing_lines, origin, read_json, table
from memserve.core.errors import ConfigError

_CACHED = ("match_", "_percent_cached")


def operation_sections() -> list[Section]:
    """Index and pool."""
    return [
        Section(
            name=name,
            file=f"{name}.json",
            command=f"memserve bench {name} --json benchmarks/results/{name}.json",
            build=build,
        )
        for name, build in (("index", _index), ("pool", _pool))
    ]


def _index(file: Path) -> Block:
    report = _report(file)
    deep = [row for row in report.results if row.tree == "deep" and row.operation in {"match", "insert"}]
    systems = list(dict.fromkeys(_system(row) for row in deep))
    by_place: dict[tuple[str, int], dict[str, Row]] = {}
    for row in deep:
        by_place.setdefault((row.operation, row.blocks), {})[_system(row)] = row
    rows = [["operation, blocks of 16 tokens", *(f"{system}, us" for system in systems)]]
    for (operation, blocks), found in sorted(by_place.items()):
        rows.append([f"{operation} {blocks}", *(_micro(found.get(system)) for system in systems)])
    charts = [_over_blocks(deep, operation, systems) for operation in ("match", "insert")]
    cached = [row for row in report.results if row.operation.startswith(_CACHED[0])]
    charts += [_over_cached(cached)] if cached else []
    drawing = Drawing(name="index", alt="Radix index", charts=tuple(chart for chart in charts if chart.lines))
    lines = ["Medians in the deep tree, whole prompts cached.", "", *table(rows), "", *missing_lines(report.missing)]
    return Block(lines=(*lines, *origin(report)), drawings=(drawing,))


def _over_blocks(rows: Sequence[Row], operation: str, systems: Sequence[str]) -> LineChart:
    lines = []
    for system in systems:
        own = sorted((r for r in rows if r.operation == operation and _system(r) == system), key=lambda r: r.blocks)
        if own:
            lines.append(_line(system, own, [float(row.blocks) for row in own]))
    return LineChart(
        title=operation, x="prompt (blocks of 16 tokens)", y="time (us)", lines=tuple(lines), log_x=True, log_y=True
    )


def _over_cached(rows: Sequence[Row]) -> LineChart:
    """The paper's own question: does a match of 4K tokens take longer the more of it is cached?"""
    lines = []
    for system in dict.fromkeys(_system(row) for row in rows):
        own = sorted((row for row in rows if _system(row) == system), key=_percent)
        lines.append(_line(system, own, [float(_percent(row)) for row in own]))
    return LineChart(
        title="match of 4,096 tokens", x="cached (% of the prompt)", y="time (us)", lines=tuple(lines), log_y=True
    )


def _pool(file: Path) -> Block:
    report = _report(file)
    rows = [["system, operation", "median, us", "quartiles, us", "GB/s", "us a block"]]
    for row in report.results:
        a_block = f"{row.p50_us / row.blocks:.3f}" if row.operation == "alloc_free" else ""
        rate = f"{row.gb_per_s:.2f}" if row.gb_per_s else ""
        name = f"{row.system} {_POOL_NAMES.get(row.operation, row.operation)}"
        rows.append([name, f"{row.p50_us:,.1f}", f"{row.p25_us:,.1f} to {row.p75_us:,.1f}", rate, a_block])
    lines = [*table(rows), "", *missing_lines(report.missing), *origin(report)]
    return Block(lines=tuple(lines), drawings=tuple(_moved([row for row in report.results if row.gb_per_s])))


def _moved(rows: Sequence[Row]) -> list[Drawing]:
    """Rates of put and get, for every system that has any."""
    operations = tuple(dict.fromkeys(row.operation for row in rows))
    rates = {(row.system, row.operation): row.gb_per_s for row in rows}
    bars = tuple(
        Bars(label=system, values=tuple(rates.get((system, operation)) for operation in operations))
        for system in dict.fromkeys(row.system for row in rows)
    )
    chart = BarChart(title="64 MiB of one prompt", y="rate (GB/s)", groups=operations, bars=bars)
    return [Drawing(name="pool", alt="Memory pool", charts=(chart,))] if rows else []


_POOL_NAMES = {
    "alloc_free": "alloc_mem and free_mem of 64 blocks",
    "put": "put of 64 MiB",
    "get": "get of 64 MiB",
}


def _report(file: Path) -> Report:
    report = read_json(file, Report)
    if not report.results:
        raise ConfigError(f"{file} holds no results: no system could be measured; make it again")
    return report


def _line(system: str, rows: Sequence[Row], x: Sequence[float]) -> Line:
    return Line(
        label=system,
        x=tuple(x),
        y=tuple(row.p50_us for row in rows),
        low=tuple(row.p25_us for row in rows),
        high=tuple(row.p75_us for row in rows),
    )


def _system(row: Row) -> str:
    return f"{row.system} {row.input}".strip()


def _percent(row: Row) -> int:
    return int(row.operation.removeprefix(_CACHED[0]).removesuffix(_CACHED[1]))


def _micro(row: Row | None) -> str:
    return "" if row is None else f"{row.p50_us:.3g}" if row.p50_us < 1000 else f"{row.p50_us:,.0f}"
