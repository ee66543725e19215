"""The gateway's benchmark for real, but short: our own gateway, real load, and peers that are not installed."""

from pathlib import Path

import msgspec
import pytest

from memserve.bench.gateway import CONCURRENCIES, POLICIES, GatewayPlan, GatewayReport, as_gateway_lines, run_gateway


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> GatewayReport:
    said: list[str] = []
    plan = GatewayPlan(num_rounds=1, seconds=0.1, num_workers=1)
    return run_gateway(peers=tmp_path_factory.mktemp("peers"), plan=plan, say=said.append)


def test_every_load_of_each_of_our_policies_is_measured(report: GatewayReport) -> None:
    measured = {(row.system, row.policy, row.concurrency, row.streaming) for row in report.results}
    assert measured == {
        ("memserve", policy, concurrency, streaming)
        for policy in POLICIES["memserve"]
        for concurrency in CONCURRENCIES
        for streaming in (False, True)
    }
    assert all(row.requests > 0 and row.requests_per_s > 0 for row in report.results)
    assert any(row.cpu_us > 0 for row in report.results)  # the kernel counts hundredths of a second


def test_a_peer_that_is_not_installed_is_reported_with_what_would_change_that(report: GatewayReport) -> None:
    assert {missing.system for missing in report.missing} == {"vllm-router", "sglang-router"}
    assert all("make bench-peers" in missing.reason for missing in report.missing)


def test_the_file_has_every_field_of_a_row_and_the_table_a_line_for_each(report: GatewayReport, tmp_path: Path) -> None:
    report.write(tmp_path / "gateway.json")
    results = msgspec.json.decode((tmp_path / "gateway.json").read_bytes())["results"]
    fields = {
        "system",
        "policy",
        "concurrency",
        "streaming",
        "requests_per_s",
        "added_p50_ms",
        "added_p99_ms",
        "cpu_us",
    }
    assert all(fields <= set(row) for row in results)
    assert len(list(as_gateway_lines(report))) == 1 + len(report.results) + len(report.missing)
