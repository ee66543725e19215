"""What a MemPool starts from: the storages of its tiers and, for library use, an identity."""

from pathlib import Path

import msgspec

from memserve.config import DiskPlace
from memserve.core.enums import Tier
from memserve.core.errors import ConfigError
from memserve.core.ids import Incarnation, InstanceId
from memserve.instance.tiers import TierMemory
from memserve.pool.labels import max_label_bytes
from memserve.storage.base import Storage
from memserve.storage.disk import DiskStorage
from memserve.storage.private_memory import PrivateMemory
from memserve.storage.shared_memory import SharedMemory, sweep
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import ArenaRef


class OpenTiers(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever gets it closes the memory."""

    memory: TierMemory
    arena: ArenaRef | None
    """Of the DRAM tier."""
    disk: DiskStorage | None


def default_identity(*, block_size: int, block_bytes: int) -> KvIdentity:
    """For pools that hold anything but a model's KV: pools with blocks of the same shape may share."""
    return KvIdentity(
        model="none",
        dtype="bytes",
        engine="none",
        backend="none",
        block_size=block_size,
        block_bytes=block_bytes,
        num_layers=1,
    )


def checked_identity(identity: KvIdentity | None, *, block_size: int, block_bytes: int) -> KvIdentity:
    """The one given or the default. Raises ConfigError unless its blocks have the pool's shape."""
    if block_size < 1:
        raise ConfigError(f"block_size = {block_size}: a block holds at least one token")
    identity = identity or default_identity(block_size=block_size, block_bytes=block_bytes)
    if (identity.block_size, identity.block_bytes) != (block_size, block_bytes):
        raise ConfigError(
            f"the identity says {identity.block_size} tokens and {identity.block_bytes} bytes a block, "
            f"the pool {block_size} and {block_bytes}: give both the same"
        )
    return identity


def open_tiers(
    *,
    cluster: str,
    instance: InstanceId,
    incarnation: Incarnation,
    block_bytes: int,
    dram_bytes: int,
    hbm_bytes: int,
    hbm: Storage | None,
    disk: DiskPlace | None,
    identity: KvIdentity,
) -> OpenTiers:
    """Memory for whole blocks; a tier of 0 bytes is left out. Raises ConfigError for sizes that hold no block.

    `hbm` is the HBM tier's memory when it is not this process's, and is closed with the others. The disk tier is
    the file <instance>.kv of its folder.

    Removes what instances of this cluster that were killed have left in shared memory.
    """
    for name, size in (("dram_bytes", dram_bytes), ("hbm_bytes", hbm_bytes)):
        if size < 0 or block_bytes < 1 or 0 < size < block_bytes:
            raise ConfigError(f"{name} = {size} holds no block of {block_bytes} bytes: give 0 or more than that")
    if hbm is not None and (hbm_bytes or hbm.block_bytes != block_bytes):
        raise ConfigError(
            f"hbm holds blocks of {hbm.block_bytes} bytes and hbm_bytes = {hbm_bytes}, the pool's blocks have "
            f"{block_bytes}: give one of the two, with blocks of that size"
        )
    if not dram_bytes and not hbm_bytes and hbm is None:
        raise ConfigError("a pool needs dram_bytes or hbm_bytes: both are 0")
    sweep(f"{cluster}-")
    storages: dict[Tier, Storage] = {} if hbm is None else {Tier.HBM: hbm}
    arena = None
    if hbm_bytes:
        storages[Tier.HBM] = PrivateMemory(num_blocks=hbm_bytes // block_bytes, block_bytes=block_bytes)
    if dram_bytes:
        shared = SharedMemory(
            cluster=cluster,
            instance=instance,
            incarnation=incarnation,
            num_blocks=dram_bytes // block_bytes,
            block_bytes=block_bytes,
        )
        storages[Tier.DRAM] = shared
        arena = shared.ref
    memory = TierMemory(storages, block_bytes=block_bytes)
    if disk is None:
        return OpenTiers(memory=memory, arena=arena, disk=None)
    try:
        file = _open_disk(disk, instance, identity)
    except BaseException:
        memory.close()
        raise
    return OpenTiers(memory=TierMemory({**storages, Tier.DISK: file}, block_bytes=block_bytes), arena=arena, disk=file)


def _open_disk(place: DiskPlace, instance: InstanceId, identity: KvIdentity) -> DiskStorage:
    return DiskStorage(
        Path(place.folder) / f"{instance}.kv",
        identity=identity,
        size_bytes=place.size_bytes,
        label_bytes=max_label_bytes(identity.block_size),
    )
