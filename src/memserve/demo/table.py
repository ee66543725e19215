"""The demo's report as a person reads it: one table, the ratios and the verdict. Owns the layout only."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from memserve.demo.report import DemoReport, TurnRow

_COLUMNS = (
    *("turn", "prompt\ntokens", "HBM\nhit", "DRAM\nhit", "com-\nputed", "moved\nblocks", "moved\nMiB", "path"),
    *("sent\nback", "TTFT\ns", "JCT\ns", "plain\nTTFT", "plain\nJCT", "as\npl."),
)


def render(report: DemoReport) -> RenderableType:
    """Table (fits 80 columns), what its columns mean, ratios, `tokens identical: N of N`."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in _COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.turns:
        table.add_row(*_cells(row), end_section=_is_last_of_conversation(row, report))
    legend = Text(
        "hit, computed: prompt tokens at the prefill instance; moved: from there to the decode instance; sent back: "
        "tokens whose KV the decode instance returned; plain: the same request on plain vLLM; as pl.: same tokens\n"
    )
    ratios = Text(
        f"memserve over plain vLLM without prefix caching, turns after the first: "
        f"TTFT {report.ttft_ratio:.2f}, JCT {report.jct_ratio:.2f}"
    )
    colour = "green" if report.tokens_identical else "bold red"
    verdict = Text(f"tokens identical: {report.num_identical} of {len(report.turns)}", style=colour)
    return Group(table, legend, ratios, verdict)


def _cells(row: TurnRow) -> tuple[str, ...]:
    return (
        f"{row.conversation}.{row.turn}",
        str(row.prompt_tokens),
        _known(row.cached_hbm_tokens),
        _known(row.cached_dram_tokens),
        _known(row.computed_tokens),
        _known(row.moved_blocks),
        "?" if row.moved_bytes is None else f"{row.moved_bytes / 2**20:.1f}",
        "?" if row.moved_path is None else row.moved_path or "-",
        _known(row.returned_tokens),
        f"{row.ttft_s:.2f}",
        f"{row.jct_s:.2f}",
        f"{row.plain_ttft_s:.2f}",
        f"{row.plain_jct_s:.2f}",
        "yes" if row.tokens_identical else "NO",
    )


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)


def _is_last_of_conversation(row: TurnRow, report: DemoReport) -> bool:
    return all(other.turn <= row.turn for other in report.turns if other.conversation == row.conversation)
