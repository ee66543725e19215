"""Calibrated cost profiles: where they lie, and which one belongs to the engine at hand.

Owns the folder `profiles` in the cache and the names in it. A profile is found by what it was made for, so an
engine, a model or a machine that changed simply has none until it is calibrated.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import CostProfile, ProfileIdentity, decode_profile, encode_profile
from memserve.wire.identity import KvIdentity

PEER_PATH = "peer"
"""Name of the path from another instance, over the fastest way there is."""
HOST_PATH = "dram"
"""Name of the path from the pool's host memory into the engine."""


def profile_identity(kv: KvIdentity, *, machine: str) -> ProfileIdentity:
    """What a calibration of an engine with this KV on this machine is made for."""
    return ProfileIdentity(model=f"{kv.model} {kv.dtype}", engine=f"{kv.engine} {kv.backend}", machine=machine)


def profile_file(cache: Path, identity: ProfileIdentity) -> Path:
    digest = hashlib.blake2b(msgspec.json.encode(identity, order="deterministic"), digest_size=8).hexdigest()
    return cache / "profiles" / f"{digest}.json"


def save_profile(profile: CostProfile, file: Path) -> None:
    """All of it or nothing. Raises ConfigError when it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        with os.fdopen(descriptor, "wb") as out:
            out.write(encode_profile(profile))
        Path(name).replace(file)
    except OSError as error:
        raise ConfigError(f"cannot write the profile {file}: {error.strerror}; name another file") from error


def read_profile(file: Path, *, expected: ProfileIdentity | None = None) -> CostProfile:
    """As named by the operator. Raises ConfigError when it cannot be read or was made for something else."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the profile {file}: {error.strerror}") from error
    return decode_profile(data, where=str(file), expected=expected)


def profile_for(identity: ProfileIdentity, *, named: str, cache: Path) -> CostProfile | None:
    """The file that the operator named, else what `memserve calibrate` has found here; None when it never did.

    Raises ConfigError as `read_profile`.
    """
    if named:
        return read_profile(Path(named), expected=identity)
    file = profile_file(cache, identity)
    return read_profile(file, expected=identity) if file.is_file() else None
