"""Calibration of a model with the options of `memserve serve`: one instance up, measured, and down again.

Owns that instance and the file that comes out. The instance is started as `memserve serve` would start it, but
alone, colocated, and with vLLM's development routes, so that its cache can be emptied.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

import aiohttp
import msgspec

from memserve.calibration.measurements import Calibration
from memserve.calibration.prober import Prober
from memserve.calibration.session import CalibrationSession, Target
from memserve.config import ClusterSettings, GatewaySettings, ServeConfig
from memserve.core.clock import SystemClock
from memserve.serving.cluster import running_cluster
from memserve.serving.prepare import PreparedRun
from memserve.serving.profiles import profile_file, profile_identity, save_profile

_DEVELOPMENT = {"VLLM_SERVER_DEV_MODE": "1"}


class Calibrated(msgspec.Struct, frozen=True, kw_only=True):
    calibration: Calibration
    file: Path


def calibrated_config(config: ServeConfig) -> ServeConfig:
    """The settings of the instance that is measured: any one of the cluster's, alone."""
    alone = msgspec.structs.replace(ClusterSettings(colocated=1), caching=config.cluster.caching)
    return msgspec.structs.replace(config, cluster=alone, gateway=GatewaySettings(port=0))


async def run_calibration(
    run: PreparedRun, *, seconds: float, output: Path | None, seed: int, tell: Callable[[str], None]
) -> Calibrated:
    """Measure for about `seconds` and write the profile: to `output`, else where `memserve serve` finds it.

    Raises ConfigError, InstanceUnavailable; nothing is written then.
    """
    machine = msgspec.structs.replace(run.machine, environment=run.machine.environment | _DEVELOPMENT)
    tell(f"starting one instance of {run.model_name}")
    async with (
        running_cluster(msgspec.structs.replace(run, machine=machine)) as cluster,
        aiohttp.ClientSession() as http,
    ):
        instance = cluster.view.instances[0]
        identity = profile_identity(instance.peer.identity, machine=run.machine.name)
        clock = SystemClock()
        prober = Prober(
            url=instance.url,
            model=run.model_name,
            http=http,
            clock=clock,
            random=Random(seed),  # noqa: S311 - draws prompts, keeps no secret
        )
        target = Target(
            instance=instance,
            cluster=run.cluster,
            paths=run.config.pool.paths,
            identity=identity,
            source=f"memserve calibrate --seconds {seconds:g} --seed {seed}, model {run.model_name}",
            kv_capacity_tokens=await prober.kv_capacity_tokens(),
        )
        found = await CalibrationSession(target, prober=prober, clock=clock, seconds=seconds, tell=tell).run()
    file = output or profile_file(run.cache, identity)
    save_profile(found.profile, file)
    return Calibrated(calibration=found, file=file)
