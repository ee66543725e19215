"""What a block on disk is the KV of, in bytes that are stored with it, and prompts found again from them.

A label holds the tokens of its own block only, and digests of the prefixes that end before and with it: so
blocks find their place whatever order they are read in, and one whose prefix is not there finds none.

    digest(b"") <── parent [b0] digest <── parent [b1] digest ...
"""

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from memserve.pool.tokens import TOKEN_BYTES
from memserve.wire.identity import Namespace

_DIGEST_BYTES = 16
_OVERHEAD = 64
"""More than the digests and MessagePack's own bytes take."""
MAX_NAMESPACE_BYTES = 256


class _Label(msgspec.Struct, frozen=True, array_like=True):
    namespace: Namespace
    parent: bytes
    digest: bytes
    tokens: bytes


class StoredRun(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks that follow each other, the first one right after blocks of earlier runs or the start of a prompt."""

    namespace: Namespace
    tokens: bytes
    """From the start of the prompt to the end of the last block."""
    slots: tuple[int, ...]
    """Where its blocks lie in their tier."""


def max_label_bytes(block_size: int) -> int:
    """Longest label of a block of so many tokens."""
    return _OVERHEAD + MAX_NAMESPACE_BYTES + block_size * TOKEN_BYTES


def label_of(namespace: Namespace, tokens: bytes, *, block_token_bytes: int) -> bytes:
    """Label of the last block of `tokens`; b"" when the namespace is too long to be stored: it is not found again."""
    if len(namespace) > MAX_NAMESPACE_BYTES:
        return b""
    cut = len(tokens) - block_token_bytes
    running = _start(namespace)
    running.update(tokens[:cut])
    parent = running.digest()
    running.update(tokens[cut:])
    return msgspec.msgpack.encode(
        _Label(namespace=namespace, parent=parent, digest=running.digest(), tokens=tokens[cut:])
    )


def stored_runs(labels: Iterable[tuple[int, bytes]], *, block_token_bytes: int) -> Iterator[StoredRun]:
    """Prompts that can be put together from labels and their slots, each after what it continues.

    What cannot be read, comes twice, or continues something that is not there, is left out.
    """
    found: dict[tuple[Namespace, bytes], dict[bytes, tuple[int, _Label]]] = {}
    for slot, raw in labels:
        label = _decoded(raw)
        if label is not None and len(label.tokens) == block_token_bytes:
            found.setdefault((label.namespace, label.parent), {}).setdefault(label.digest, (slot, label))
    waiting = [(namespace, b"", _start(namespace).digest()) for namespace in {namespace for namespace, _ in found}]
    while waiting:
        namespace, tokens, digest = waiting.pop()
        parts, slots = [tokens], []
        while len(children := found.pop((namespace, digest), {})) == 1:
            [(digest, (slot, label))] = children.items()
            parts.append(label.tokens)
            slots.append(slot)
        tokens = b"".join(parts)
        if slots:
            yield StoredRun(namespace=namespace, tokens=tokens, slots=tuple(slots))
        for below, (slot, label) in children.items():
            yield StoredRun(namespace=namespace, tokens=tokens + label.tokens, slots=(slot,))
            waiting.append((namespace, tokens + label.tokens, below))


def _start(namespace: Namespace) -> "hashlib.blake2b":
    """Of the empty prompt. Digests of different namespaces never agree."""
    return hashlib.blake2b(digest_size=_DIGEST_BYTES, key=hashlib.blake2b(namespace, digest_size=32).digest())


def _decoded(raw: bytes) -> _Label | None:
    try:
        return msgspec.msgpack.decode(raw, type=_Label)
    except msgspec.DecodeError:
        return None
