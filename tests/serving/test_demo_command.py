"""`memserve demo` from end to end over engines that stand for vLLM: everything but the model is real."""

import json
import signal
from pathlib import Path

from tests.serving.processes import memserve


async def test_it_plays_both_conversations_on_both_servers_and_writes_all_numbers(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    async with memserve("demo", "--json", str(file)) as command:
        assert await command.status(within_s=90) == 0, command.lines
    report = json.loads(file.read_text())
    assert report["tokens_identical"] is True
    assert [(row["conversation"], row["turn"]) for row in report["turns"]] == [
        *((1, turn) for turn in range(1, 7)),
        *((2, turn) for turn in range(1, 3)),
    ]
    assert all(row["computed_tokens"] == 300 for row in report["turns"])
    assert "tokens identical: 8 of 8" in command.text


async def test_ctrl_c_ends_it_with_130() -> None:
    async with memserve("demo") as command:
        await command.line_with("starting one prefill")
        command.send(signal.SIGINT)
        assert await command.status(within_s=10) == 130
    assert "Traceback" not in command.text
