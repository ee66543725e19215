"""Closed sets of choices. Their values are what a user types and what goes over the wire."""

from enum import IntEnum, StrEnum


class Tier(IntEnum):
    """Where a block's bytes lie. The value is part of a BlockId, not an order of preference."""

    HBM = 0
    """Memory of the device that computes; on vLLM's CPU backend, the engine's private memory."""
    DRAM = 1
    """Host memory that other processes of the host can map."""
    DISK = 2


class Role(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"
    COLOCATED = "colocated"
    FLEXIBLE = "flexible"
    """Any of the above, as the scheduler decides for each request."""
    MEMORY = "memory"


SERVING_ROLES = tuple(role for role in Role if role is not Role.MEMORY)
"""Of instances with an engine."""


class CachingMode(StrEnum):
    """The design milestones of MemServe, each a mode that can be measured (arXiv 2406.17565)."""

    BASIC = "basic"
    """PD-Basic: nobody caches, the whole KV goes from prefill to decode."""
    PREFILL = "prefill"
    """PD-Caching-1: the prefill instance caches; the whole KV still goes over every turn."""
    BOTH = "both"
    """PD-Caching-2: both cache; only what the decode instance lacks goes over."""
    RETURN = "return"
    """PD-Caching-3: and the KV of the decode phase goes back to the prefill instance."""


class TransferMode(StrEnum):
    BY_LAYER = "by-layer"
    """A layer's KV leaves as soon as the layer is computed, while the next ones are."""
    BY_REQUEST = "by-request"
    """All layers leave in one piece when the prefill is done."""
    AUTO = "auto"
    """By layer while the prefill instance computes few prompts, by request when it has many."""


class LauncherKind(StrEnum):
    LOCAL = "local"
    """Processes of this machine."""
    RAY = "ray"
    """Actors of a Ray cluster, on any of its nodes."""


class AutoscaleMode(StrEnum):
    OFF = "off"
    PROPOSE = "propose"
    """Says what it would change, and changes nothing."""
    ON = "on"


class PiecePlan(StrEnum):
    """How a block's bytes are cut for the way to another instance."""

    AGGREGATED = "aggregated"
    """A block with all its layers is one piece."""
    DISCRETE = "discrete"
    """K and V of each layer go by themselves, as from an engine that does not aggregate: to measure against."""


class Phase(StrEnum):
    """What an instance is asked to do with a request."""

    PREFILL = "prefill"
    DECODE = "decode"
    WHOLE = "whole"
    """Prefill and decode on the same instance."""


class DataPath(StrEnum):
    """How bytes of blocks get from one instance to another."""

    SHM = "shm"
    """One copy between processes of one host that can map each other's memory."""
    TCP = "tcp"
    """Over the network, between any two instances that reach each other's data endpoints."""
    NIXL = "nixl"
    """By UCX: RDMA, shared memory or TCP, whatever it finds. For transfers and pulls, not for hand-overs."""
