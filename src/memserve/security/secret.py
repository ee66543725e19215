"""The cluster secret: one file, the same for every process of a cluster, from which every key is derived.

Owns reading and making the file, and the derivation (HKDF, RFC 5869). The secret is held by one object that shows
nothing of itself; what is derived for one purpose tells nothing about another. Never on a command line, never in
a message, never in a log: processes are given the file's path.
"""

import os
import secrets
import stat
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from memserve.core.errors import ConfigError

MIN_BYTES = 32
"""Characters that a secret has at least; `make_secret` writes 43, which hold 256 random bits."""
_MAX_BYTES = 4096
_FORBIDDEN = stat.S_IWGRP | stat.S_IRWXO
_KEY_BYTES = 32


class Purpose(StrEnum):
    """What a key is for. A new meaning needs a new name, as the old one's keys are in use."""

    RPC_SERVER = "rpc server"
    RPC_CLIENT = "rpc client"
    TLS_AUTHORITY = "tls authority"
    ADMIN_HTTP = "admin http"


class ClusterSecret:
    """Knows the secret; gives away only what is derived from it. On purpose no record: nothing can encode it."""

    __slots__ = ("_material",)

    def __init__(self, material: bytes) -> None:
        """Raises ConfigError when it is too short to be one."""
        if len(material) < MIN_BYTES:
            raise ConfigError(
                f"the cluster secret has {len(material)} characters: it needs {MIN_BYTES} at least, and random ones; "
                "make one with memserve secret FILE"
            )
        self._material = material

    def derive(self, purpose: Purpose) -> bytes:
        """32 bytes, always the same for this secret and purpose."""
        info = f"memserve 1 {purpose}".encode()
        return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(self._material)

    def token(self, purpose: Purpose) -> str:
        """The same as text for an HTTP header."""
        return self.derive(purpose).hex()

    def __repr__(self) -> str:
        return "ClusterSecret(hidden)"


def read_secret(path: Path | str) -> ClusterSecret:
    """Raises ConfigError for a file that is missing, that others than its owner and group can open, or too short."""
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_BYTES + 1).strip()
    except OSError as error:
        raise ConfigError(
            f"the cluster secret {path} cannot be read: {error.strerror}; make one with memserve secret {path}, or "
            "copy that of the cluster"
        ) from error
    if mode & _FORBIDDEN:
        raise ConfigError(
            f"the cluster secret {path} is open to others (mode {mode:04o}): run chmod 600 {path}, and make a new one "
            "if somebody may have read it"
        )
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"the cluster secret {path} is longer than {_MAX_BYTES} bytes: is this the right file?")
    try:
        return ClusterSecret(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def make_secret(path: Path) -> None:
    """Write a new one for the owner's eyes only. Raises ConfigError when there is a file already."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot make the cluster secret {path}: {error.strerror}; choose another file") from error
    with os.fdopen(fd, "w") as file:
        file.write(secrets.token_urlsafe(_KEY_BYTES) + "\n")
