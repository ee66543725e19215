"""The sections of the micro-studies: figure, setting, a table for each quantity, and what follows from them."""

from pathlib import Path

from memserve.bench.report.section import Block, Drawing, Section, missing_lines, origin, read_json, table
from memserve.bench.study.figure import study_charts
from memserve.bench.study.record import StudyReport
from memserve.bench.study.run import STUDIES
from memserve.bench.study.table import study_rows


def study_sections() -> list[Section]:
    """One for each study there is."""
    return [
        Section(
            name=f"study-{name}",
            file=f"study-{name}.json",
            command=f"memserve bench study {name} --json benchmarks/results/study-{name}.json",
            build=_build,
        )
        for name in STUDIES
    ]


def _build(file: Path) -> Block:
    report = read_json(file, StudyReport)
    lines = [f"Setting: {report.setting}. Medians, with quartiles in brackets."]
    for quantity in report.question.quantities:
        rows = study_rows(report, quantity)
        rows[0][0] = report.question.x.label
        lines += ["", f"{quantity.label.replace('_', ' ')}:", "", *table(rows)]
    facts = [f"- {finding}" for finding in report.findings] + missing_lines(report.missing)
    lines += ["", *facts] if facts else []
    lines += origin(report, seed=report.seed, more=f"{report.size} size")
    drawing = Drawing(
        name=f"study-{report.question.name}", alt=report.question.title, charts=tuple(study_charts(report))
    )
    return Block(lines=tuple(lines), drawings=(drawing,))
