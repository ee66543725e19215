"""The setup script's own decisions; what it installs is shown by every other test that runs."""

import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "setup.py"


@pytest.fixture(scope="module")
def setup() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT), run_name="setup")


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("torch==2.13.0+cpu; platform_machine == 'x86_64'", "torch"),
        ("torchaudio; platform_machine != 's390x'", "torchaudio"),
        ("fastapi[standard]<0.137.0,>=0.133.0", "fastapi"),
        ("prometheus_client>=0.18.0", "prometheus-client"),
    ],
)
def test_a_requirement_is_known_by_its_normalised_name(setup: dict[str, Any], requirement: str, name: str) -> None:
    assert setup["distribution"](requirement) == name


def test_what_stops_vllm_from_starting_is_left_out_and_torch_itself_is_not(setup: dict[str, Any]) -> None:
    assert setup["BREAKS_CPU_ENGINE"] == {"torchvision", "torchaudio", "torchcodec"}


def test_a_failed_step_raises_with_pips_last_words_and_the_hint(setup: dict[str, Any], tmp_path: Path) -> None:
    log = tmp_path / "setup.log"
    setup["run"].__globals__["LOG"] = log
    command = ("sh", "-c", "echo noise; echo ERROR: first; echo ERROR: No matching distribution; exit 1")
    with pytest.raises(setup["SetupError"], match=r"^ERROR: No matching distribution\nPoint pip elsewhere\.$"):
        setup["run"]("torch", command, "Point pip elsewhere.")
    with pytest.raises(setup["SetupError"], match=r"(?s)ERROR: first.*The whole output is in .*setup\.log"):
        setup["run"]("others", command)
