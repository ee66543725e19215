"""Engine arguments of prefill and of decode instances: what they have in common, and what is one role's own.

Pure. A role may differ in what its instances make of the model (tensor-parallel size, batching, memory), never
in what its KV means: then no block could be shared, and that is refused here, not after a minute of loading.
"""

from collections.abc import Sequence

from memserve.config import ServeConfig
from memserve.core.enums import Role
from memserve.core.errors import ConfigError
from memserve.manager.engine_args import given, number_of, value_of

_SAME = ("--dtype", "--kv-cache-dtype", "--block-size", "--revision")
"""Part of the identity of KV."""
_COMMON = ("--served-model-name", "--max-model-len", "--tokenizer", "--chat-template")
"""Clients see one model, whichever instances serve a request."""


def role_args(config: ServeConfig, role: Role) -> tuple[str, ...]:
    """All engine arguments of an instance of that role; its own ones come last and win."""
    engine = config.engine
    own = {Role.PREFILL: engine.prefill.args, Role.DECODE: engine.decode.args}
    return (*engine.args, *own.get(role, ()))


def tensor_parallel_size(config: ServeConfig, role: Role) -> int:
    """Ranks of each instance of that role. Raises ConfigError on a value that is no number."""
    return number_of(role_args(config, role), "--tensor-parallel-size", "-tp") or 1


def check_role_args(config: ServeConfig) -> None:
    """Raise ConfigError unless prefill and decode instances can share KV and pass for one model."""
    engine = config.engine
    cluster = config.cluster
    others_only = (cluster.colocated or cluster.instances) and not (cluster.prefill or cluster.decode)
    if others_only and (engine.prefill.args or engine.decode.args):
        raise ConfigError(
            "engine arguments are given for prefill or decode instances, but there are none: give those of all "
            "instances in engine.args or after --"
        )
    for role, own in ((Role.PREFILL, engine.prefill.args), (Role.DECODE, engine.decode.args)):
        for name in _COMMON:
            if given(own, name):
                raise ConfigError(f"engine option {name} cannot differ by role: move it from engine.{role} to engine")
    prefill, decode = (role_args(config, role) for role in (Role.PREFILL, Role.DECODE))
    for name in _SAME:
        if value_of(prefill, name) != value_of(decode, name):
            raise ConfigError(_differs(name, prefill, decode))


def _differs(name: str, prefill: Sequence[str], decode: Sequence[str]) -> str:
    here, there = (value_of(args, name) or "the default" for args in (prefill, decode))
    return (
        f"engine option {name} is {here} for prefill and {there} for decode instances, which then cannot share KV: "
        "give it once, for both"
    )
