"""Options of the command line laid over the settings of a file: what the person typed wins.

Owns the merge and the checks that need the whole. An option that was not given is None.
"""

import shlex
from pathlib import Path

import msgspec

from memserve.cli.bounds import parse_bounds
from memserve.config import (
    AutoscalerSettings,
    ClusterSettings,
    EngineSettings,
    PoolSettings,
    RoleSettings,
    ServeConfig,
    load_serve_config,
)
from memserve.core.enums import AutoscaleMode, CachingMode, LauncherKind, TransferMode
from memserve.core.errors import ConfigError

_ONE_OF_EACH: dict[str, object] = {"prefill": 1, "decode": 1}
_NONE: dict[str, object] = {"prefill": 0, "decode": 0, "colocated": 0, "instances": 0}


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`memserve serve` as typed."""

    model: str | None = None
    prefill: int | None = None
    decode: int | None = None
    colocated: int | None = None
    instances: int | None = None
    caching: CachingMode | None = None
    transfer: TransferMode | None = None
    policy: str | None = None
    profile: str | None = None
    name: str | None = None
    manager: str | None = None
    registry: str | None = None
    max_restarts: int | None = None
    cluster_secret: Path | None = None
    host: str | None = None
    port: int | None = None
    workers: int | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    dram: str | None = None
    disk: str | None = None
    ttl_s: float | None = None
    pin_share: float | None = None
    launcher: LauncherKind | None = None
    ray_address: str | None = None
    autoscale: AutoscaleMode | None = None
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    autoscale_bounds: str | None = None
    config: Path | None = None
    engine_args: tuple[str, ...] = ()
    """What stood after `--`."""
    prefill_args: str | None = None
    """More of them for prefill instances, as in a shell."""
    decode_args: str | None = None


def serve_config(options: ServeOptions) -> ServeConfig:
    """All settings of one run. Raises ConfigError on a bad file or on numbers that make no cluster."""
    config = load_serve_config(options.config) if options.config is not None else ServeConfig()
    cluster = msgspec.structs.replace(
        _with_instances(config.cluster, options),
        **_given(caching=options.caching, transfer=options.transfer, policy=options.policy, profile=options.profile),
        **_given(name=options.name, manager=options.manager, registry=options.registry),
        **_given(max_restarts=options.max_restarts, launcher=options.launcher),
        **_given(secret=_text(options.cluster_secret)),
    )
    cluster.check()
    return msgspec.structs.replace(
        config,
        cluster=cluster,
        gateway=msgspec.structs.replace(
            config.gateway,
            **_given(host=options.host, port=options.port, workers=options.workers),
            **_given(ssl_certfile=_text(options.ssl_certfile), ssl_keyfile=_text(options.ssl_keyfile)),
        ),
        pool=_pool(config.pool, options),
        ray=msgspec.structs.replace(config.ray, **_given(address=options.ray_address)),
        autoscaler=_autoscaler(config.autoscaler, options),
        engine=EngineSettings(
            args=(*config.engine.args, *options.engine_args),
            prefill=_with_args(config.engine.prefill, options.prefill_args, "--prefill-args"),
            decode=_with_args(config.engine.decode, options.decode_args, "--decode-args"),
        ),
        **_given(model=options.model),
    )


def _autoscaler(file: AutoscalerSettings, options: ServeOptions) -> AutoscalerSettings:
    bounds = options.autoscale_bounds
    return msgspec.structs.replace(
        file,
        **_given(mode=options.autoscale, ttft_s=options.ttft_target_s, tpot_s=options.tpot_target_s),
        **_given(bounds=None if bounds is None else parse_bounds(bounds, "--autoscale-bounds")),
    )


def _pool(file: PoolSettings, options: ServeOptions) -> PoolSettings:
    keep = msgspec.structs.replace(file.keep, **_given(ttl_s=options.ttl_s, pin_share=options.pin_share))
    keep.check("pool.keep")
    return msgspec.structs.replace(file, keep=keep, **_given(dram=options.dram, disk=options.disk))


def _with_instances(file: ClusterSettings, options: ServeOptions) -> ClusterSettings:
    """Typed numbers overrule those of other roles in the file; of a pair, the other half stays or is one.

    Nothing typed and nothing in the file is one prefill and one decode instance.
    """
    pair = _given(prefill=options.prefill, decode=options.decode)
    both = _given(colocated=options.colocated, instances=options.instances)
    has_pair = bool(file.prefill or file.decode)
    if not pair and not both:
        return file if has_pair or file.colocated or file.instances else msgspec.structs.replace(file, **_ONE_OF_EACH)
    if pair:
        pair = (_given(prefill=file.prefill, decode=file.decode) if has_pair else _ONE_OF_EACH) | pair
    return msgspec.structs.replace(file, **{**_NONE, **pair, **both})


def _with_args(file: RoleSettings, typed: str | None, option: str) -> RoleSettings:
    """Those typed come last and win."""
    try:
        return RoleSettings(args=(*file.args, *shlex.split(typed or "")))
    except ValueError as error:
        raise ConfigError(f"{option} {typed}: {error}; quote it as in a shell") from error


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _given(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}
