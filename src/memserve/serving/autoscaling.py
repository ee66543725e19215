"""From the settings of `memserve serve` to an autoscaler at work. Owns the defaults that need the whole of them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from memserve.cluster.autoscaler import Autoscaler, AutoscaleRules, Bounds
from memserve.cluster.service_levels import Levels, LevelSource, ServiceLevels, Targets, over_all
from memserve.config import AutoscalerSettings, ServeConfig
from memserve.core.clock import Clock
from memserve.core.enums import AutoscaleMode, Role
from memserve.gateway.context import no_autoscaler
from memserve.gateway.metrics import GatewayMetrics
from memserve.gateway.other_workers import OtherWorkers
from memserve.manager.autoscaling import AutoscalerReport, Autoscaling
from memserve.manager.elasticity import Elasticity
from memserve.manager.manager import ClusterManager

_ROOM = 2
"""Times the number at the start, where no bounds are set."""


def autoscale_rules(config: ServeConfig) -> AutoscaleRules | None:
    """None when it is off. Raises ConfigError on what it could not work by."""
    settings = config.autoscaler
    if settings.mode is AutoscaleMode.OFF:
        return None
    settings.check()
    given = {role: Bounds(least=least, most=most) for role, (least, most) in settings.bounds.items()}
    rules = AutoscaleRules(
        targets=_targets(settings),
        bounds=given or _bounds(config),
        cool_down_s=settings.cool_down_s,
        calm_s=settings.calm_s,
        settle_s=settings.window_s,
    )
    rules.check()
    return rules


def service_levels(config: ServeConfig, clock: Clock) -> ServiceLevels | None:
    """What an autoscaler looks at; None when it is off."""
    settings = config.autoscaler
    if settings.mode is AutoscaleMode.OFF:
        return None
    return ServiceLevels(clock=clock, targets=_targets(settings), window_s=settings.window_s)


class LevelsOfAll:
    """Of this process and of the other workers of the gateway. Fits LevelSource."""

    def __init__(self, own: ServiceLevels, others: OtherWorkers) -> None:
        self._own = own
        self._others = others

    def now(self) -> Levels:
        told = (books.levels for books in self._others.books())
        return over_all((self._own.now(), *(levels for levels in told if levels is not None)))


@asynccontextmanager
async def autoscaling(
    config: ServeConfig,
    *,
    levels: LevelSource | None,
    manager: ClusterManager,
    elasticity: Elasticity,
    metrics: GatewayMetrics,
    clock: Clock,
) -> AsyncIterator[Callable[[], AutoscalerReport]]:
    """At work inside the block, if it is to be; gives what tells of it."""
    rules = autoscale_rules(config)
    if rules is None or levels is None:
        yield no_autoscaler
        return
    shell = Autoscaling(
        Autoscaler(rules, clock=clock),
        mode=config.autoscaler.mode,
        levels=levels,
        view=lambda: manager.view,
        elasticity=elasticity,
        clock=clock,
        every_s=config.autoscaler.every_s,
        acting=lambda: manager.acting_scaler,
    )
    metrics.show_autoscaler(shell.report)
    async with shell.running():
        yield shell.report


def _targets(settings: AutoscalerSettings) -> Targets:
    return Targets(ttft_s=settings.ttft_s, tpot_s=settings.tpot_s, share=settings.share)


def _bounds(config: ServeConfig) -> dict[Role, Bounds]:
    wanted = config.cluster
    numbers = {
        Role.PREFILL: wanted.prefill,
        Role.DECODE: wanted.decode,
        Role.COLOCATED: wanted.colocated,
        Role.FLEXIBLE: wanted.instances,
    }
    return {role: Bounds(least=1, most=_ROOM * number) for role, number in numbers.items() if number}
