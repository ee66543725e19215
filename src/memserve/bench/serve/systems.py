"""The systems of `memserve bench serve`, by name, and what each is started with.

All have two instances of the same model on the same cores, one thread each, and the same memory for KV: 2 GiB an
instance, which memserve splits into 1 GiB of the engine's own and 1 GiB of pool.

    vllm                      colocated, no prefix caching, vllm-router round_robin before them
    vllm-apc                  colocated, prefix caching, vllm-router cache_aware
    vllm-nixl                 1 prefill, 1 decode, NixlConnector, prefix caching, vllm-router in its PD mode
    vllm-nixl-bidirectional   the same with `bidirectional_kv_xfer`, behind nixl_proxy.py
    colocated                 memserve serve --colocated 2
    basic, prefill, both, return
                              memserve serve --prefill 1 --decode 1 --caching MODE, each also -by-layer, -by-request
    auto                      memserve serve --instances 2: the product chooses by itself

NIXL's progress thread polls without pause: with fewer cores than threads it would halve its own system's numbers
for no fault of the design, so threads that spin in idle servers get the lowest priority. It reads back answers from
8 tokens on (its own 64, divided as answers' lengths are), else it would read back none.
"""

from collections.abc import Mapping

import msgspec

from memserve.core.enums import CachingMode, TransferMode
from memserve.core.errors import ConfigError

NUM_INSTANCES = 2
KV_GIB = 2
"""Of each instance; half of it is a pool where there is one."""


class MemserveSystem(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    options: tuple[str, ...]
    """Of `memserve serve`."""


class VllmSystem(msgspec.Struct, frozen=True, kw_only=True):
    """Colocated vLLM behind vllm-router."""

    name: str
    engine_args: tuple[str, ...]
    policy: str
    """Of the router."""


class NixlSystem(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM split in two by its own connector."""

    name: str
    bidirectional: bool


System = MemserveSystem | VllmSystem | NixlSystem


def find_systems(names: str) -> tuple[System, ...]:
    """From a list with commas. Raises ConfigError, with all names, for one that there is not, or twice the same."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in _SYSTEMS]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        what = f'no system "{unknown[0]}"' if unknown else f'"{names}" names no system, or one twice'
        raise ConfigError(f"{what}: choose among {', '.join(_SYSTEMS)}")
    return tuple(_SYSTEMS[name] for name in wanted)


def _ours() -> list[MemserveSystem]:
    split = {str(mode): ("--prefill", "1", "--decode", "1", "--caching", str(mode)) for mode in CachingMode}
    transfers = (TransferMode.BY_LAYER, TransferMode.BY_REQUEST)
    return [
        MemserveSystem(name="colocated", options=("--colocated", str(NUM_INSTANCES))),
        *(MemserveSystem(name=name, options=options) for name, options in split.items()),
        *(
            MemserveSystem(name=f"{name}-{transfer}", options=(*options, "--transfer", str(transfer)))
            for name, options in split.items()
            for transfer in transfers
        ),
        MemserveSystem(name="auto", options=("--instances", str(NUM_INSTANCES))),
    ]


_THEIRS: tuple[System, ...] = (
    VllmSystem(name="vllm", engine_args=("--no-enable-prefix-caching",), policy="round_robin"),
    VllmSystem(name="vllm-apc", engine_args=("--enable-prefix-caching",), policy="cache_aware"),
    NixlSystem(name="vllm-nixl", bidirectional=False),
    NixlSystem(name="vllm-nixl-bidirectional", bidirectional=True),
)
_SYSTEMS: Mapping[str, System] = {system.name: system for system in (*_THEIRS, *_ours())}
