"""The figure of a calibration: it is drawn, and what it lacks is said."""

from pathlib import Path

import pytest

from memserve.calibration.figure import draw_calibration
from memserve.core.errors import ConfigError
from tests.calibration.test_measurements import fitted, measured


def test_it_is_an_image_file_of_the_kind_that_its_name_says(tmp_path: Path) -> None:
    draw_calibration(fitted(measured()), tmp_path / "fit.png")
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_a_kind_of_file_that_cannot_be_drawn_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fit\.exe"):
        draw_calibration(fitted(measured()), tmp_path / "fit.exe")
