"""What must agree before two instances may share KV, and what keeps prompts apart inside one.

Owns KvIdentity and the namespace of a prompt. Bytes of a block are opaque elsewhere: if any field
here differs, the same bytes would mean something else, so the handshake refuses and says which.
"""

import hashlib

import msgspec

from memserve.core.errors import IdentityMismatch

PROTOCOL_VERSION = 1

Namespace = bytes
"""Root under which a prompt's blocks are indexed: differs by salt and adapter. b"" is the shared one."""


class KvIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Model and layout of the KV bytes. tp and pp are layout facts of an instance, not identity."""

    model: str
    """Name or digest of the weights' configuration."""
    dtype: str
    engine: str
    """Engine and version, e.g. vllm-0.32.0."""
    backend: str
    """Attention backend and instruction set that fix how K and V lie inside a block."""
    block_size: int
    """Tokens."""
    block_bytes: int
    """Bytes of one block, all layers and all ranks."""
    num_layers: int
    protocol: int = PROTOCOL_VERSION

    def digest(self) -> str:
        """32 hex digits, the same in every process and on every machine."""
        return hashlib.blake2b(msgspec.json.encode(self, order="deterministic"), digest_size=16).hexdigest()

    def check_same(self, other: "KvIdentity", who: str) -> None:
        """Raise IdentityMismatch that names each differing field with both values."""
        fields = [name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name)]
        if fields:
            listed = "; ".join(f"{n}: {getattr(self, n)!r} here, {getattr(other, n)!r} there" for n in fields)
            raise IdentityMismatch(f"cannot share KV with {who}: {listed}; start both with the same settings")


def adapter_key(name: str, path: str) -> str:
    """One adapter: a name alone may stand for other weights tomorrow."""
    return f"{name}\0{path}"


def namespace(*, salt: str = "", adapter: str = "", multimodal: tuple[str, ...] = ()) -> Namespace:
    """Root for prompts with this salt, adapter and multimodal content; b"" when there are none.

    Length-prefixed through msgpack, so no two different inputs give the same root.
    """
    if not salt and not adapter and not multimodal:
        return b""
    return hashlib.blake2b(msgspec.msgpack.encode((salt, adapter, multimodal)), digest_size=16).digest()
