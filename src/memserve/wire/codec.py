"""MessagePack through msgspec: typed at both ends, bounded, nothing executable inside."""

from typing import Generic, TypeVar

import msgspec

from memserve.core.errors import ProtocolError

M = TypeVar("M")

MAX_CONTROL_BYTES = 64 << 20
"""Longest control message; a 1M-token prompt with its addresses takes about 10 MB."""


class Codec(Generic[M]):
    """Encodes and decodes one closed union of tagged structs. Not shared between threads."""

    def __init__(self, union: type[M], max_bytes: int = MAX_CONTROL_BYTES) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(union)
        self._encoder = msgspec.msgpack.Encoder()
        self._max_bytes = max_bytes

    def encode(self, message: M) -> bytes:
        return self._encoder.encode(message)

    def decode(self, frame: bytes | memoryview) -> M:
        """Raise ProtocolError on anything that is not a whole message of the union."""
        if len(frame) > self._max_bytes:
            raise ProtocolError(f"message of {len(frame)} bytes exceeds the limit of {self._max_bytes} bytes")
        try:
            return self._decoder.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"message of {len(frame)} bytes cannot be read: {error}") from error
