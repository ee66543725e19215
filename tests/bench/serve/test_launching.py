"""What is needed for a system is looked for before anything of it is started."""

from pathlib import Path

import aiohttp
import pytest

from memserve.bench.serve.launching import Launcher
from memserve.bench.serve.systems import find_systems
from memserve.core.errors import ConfigError
from memserve.serving.prepare import PreparedRun
from tests.manager.machines import CPU, config


@pytest.mark.parametrize("name", ["vllm", "vllm-apc"])
async def test_a_router_that_is_not_there_is_named_with_what_builds_it(tmp_path: Path, name: str) -> None:
    run = PreparedRun(
        config=config(), machine=CPU, cluster="c", log_folder=tmp_path, cache=tmp_path, warnings=(), secret=None
    )  # fmt: skip
    (system,) = find_systems(name)
    async with aiohttp.ClientSession() as http:
        launcher = Launcher(run=run, peers=tmp_path, http=http)
        with pytest.raises(ConfigError, match=r"vllm-router.* does not exist: `make bench-peers"):
            async with launcher.running(system, logs=tmp_path / "logs"):
                pass
    assert not (tmp_path / "logs").exists()
