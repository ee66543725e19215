"""`memserve bench serve`: what is wrong is said in one line before anything is started."""

import json
from pathlib import Path

import pytest

from memserve.cli import main
from tests.fakes.model import TOKENIZER

GOOD = {"--workload": "sharegpt", "--systems": "auto", "--rate": "0.1", "--sessions": "1"}


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder that passes the checks; nothing ever loads it."""
    folder = tmp_path / "model"
    folder.mkdir()
    facts = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 64}
    (folder / "config.json").write_text(json.dumps({**facts, "max_position_embeddings": 1024}))
    (folder / "model.safetensors").write_bytes(b"w" * 100)
    TOKENIZER.save(str(folder / "tokenizer.json"))
    return str(folder)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"--systems": "sglang"}, 'no system "sglang": choose among vllm, vllm-apc'),
        ({"--rate": "fast"}, '--rate "fast": give sessions a second'),
        ({"--rate": "0.1,0"}, '--rate "0.1,0": a rate is a positive number'),
        ({"--workload": "alpaca"}, 'no workload "alpaca": choose one of sharegpt, loogle, react'),
        ({"--workload": "react", "--data": "/nowhere"}, "cannot read /nowhere/react"),
        ({"--workload": "none.jsonl"}, "cannot read none.jsonl: No such file"),
        ({"--sessions": "100000"}, "100000 sessions are asked for, and there are"),
        ({"--model": "/nowhere"}, "/nowhere"),
    ],
)
def test_a_wrong_option_is_refused(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: dict[str, str], told: str
) -> None:
    options = {**GOOD, "--model": model, "--json": str(tmp_path / "run.json"), **wrong}

    with pytest.raises(SystemExit) as ended:
        main(["bench", "serve", *(part for option in options.items() for part in option)])

    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_what_another_run_left_is_not_mixed_with_this_one(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.jsonl").write_text("{}\n")
    options = {**GOOD, "--model": model, "--json": str(tmp_path / "run.json")}

    with pytest.raises(SystemExit):
        main(["bench", "serve", *(part for option in options.items() for part in option)])

    assert "run.jsonl is not a ServeResult" in capsys.readouterr().err
