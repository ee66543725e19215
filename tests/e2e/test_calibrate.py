"""`memserve calibrate` on real vLLM: a profile of this engine comes out, and every kind of cost is in it."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from memserve.calibration.measurements import Calibration
from memserve.scheduler.cost_model import decode_profile

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def test_a_short_calibration_gives_a_profile_of_every_cost_with_its_error(tmp_path: Path) -> None:
    profile, numbers = tmp_path / "profile.json", tmp_path / "numbers.json"
    command = [sys.executable, "-m", "memserve", "calibrate", "--dram", "512MiB", "--seconds", "5"]
    done = subprocess.run(
        [*command, "--output", str(profile), "--json", str(numbers)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = decode_profile(profile.read_bytes(), where="the profile")
    calibration = msgspec.json.decode(numbers.read_bytes(), type=Calibration)
    assert calibration.profile == found
    assert found.prefill.per_token_s > 0
    assert found.decode.seconds(1, 100) > 0
    assert set(found.paths) == {"shm", "tcp", "dram", "peer"}
    assert found.kv_bytes_per_token == 2 * 30 * 3 * 64 * 4  # K and V of 30 layers, 3 heads, 64 values of 4 bytes
    assert found.kv_capacity_tokens == (1 << 30) // found.kv_bytes_per_token // 32 * 32
    cached = [p.sample.cached_ratio for p in calibration.prefill.points]
    assert 0.0 in cached
    assert max(cached) > 0.4, "no step of a chain found the one before it in the cache"
    for fit in (calibration.prefill, calibration.decode, *calibration.paths):
        assert {point.judges for point in fit.points} == {True, False}, fit.kind
