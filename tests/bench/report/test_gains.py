"""Which cells are compared with which."""

import pytest

from memserve.bench.report.gains import gains
from tests.bench.report.cells import cell


def test_a_change_is_the_median_over_cells_of_the_same_rate_and_repetition() -> None:
    results = [
        *(cell("basic", rate=rate, jct_avg_s=jct) for rate, jct in ((0.1, 4.0), (0.2, 8.0), (0.4, 10.0))),
        *(cell("return", rate=rate, jct_avg_s=jct) for rate, jct in ((0.1, 3.0), (0.2, 4.0), (0.4, 9.0))),
    ]
    (found,) = gains(results)
    assert (found.system, found.pairs, found.change["jct_avg_s"]) == ("return", 3, pytest.approx(-25.0))


def test_a_system_of_one_transfer_mode_is_compared_with_pd_basic_in_that_mode() -> None:
    results = [
        cell("basic", ttft_avg_s=2.0),
        cell("basic-by-layer", ttft_avg_s=4.0),
        cell("return-by-layer", ttft_avg_s=1.0),
    ]
    found = {gain.system: gain.change["ttft_avg_s"] for gain in gains(results)}
    assert found == {"return-by-layer": pytest.approx(-75.0)}


def test_a_saturated_cell_is_not_compared_and_what_has_no_partner_is_not_either() -> None:
    results = [cell("basic", is_saturated=True), cell("return"), cell("basic", rate=0.3), cell("return", rate=0.4)]
    assert gains(results) == []
