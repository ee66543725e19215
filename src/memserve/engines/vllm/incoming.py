"""KV of one request on its way from another instance's pool into the own one, before it is computed.

Owns nothing but what is known of it; what arrives late is cached all the same. Never copies and never blocks.
"""

from concurrent.futures import Future

from memserve.core.clock import Clock
from memserve.core.enums import DataPath
from memserve.core.ids import InstanceId
from memserve.engines.vllm.awaited import Awaited
from memserve.wire.messages import MovedBlocks, PeerInfo


class Incoming(Awaited):
    """One pull and what became of it."""

    def __init__(
        self, *, source: PeerInfo, path: DataPath | None, arrived: "Future[int]", clock: Clock, wait_s: float
    ) -> None:
        super().__init__(arrived, clock=clock, wait_s=wait_s)
        self._source = source
        self._path = path
        self._clock = clock
        self._ended: float | None = None
        arrived.add_done_callback(self._note_end)

    def moved(self, *, target: InstanceId, block_size: int) -> MovedBlocks | None:
        """What arrived, or None when nothing did. `seconds` is from asking until all was indexed."""
        num_tokens = self.num_tokens
        if not num_tokens or self._path is None:
            return None
        ended = self._clock.now() if self._ended is None else self._ended
        return MovedBlocks(
            source=self._source.instance,
            target=target,
            path=self._path,
            num_blocks=num_tokens // block_size,
            num_tokens=num_tokens,
            num_bytes=num_tokens // block_size * self._source.identity.block_bytes,
            num_calls=1,
            seconds=ended - self._started,
        )

    def _note_end(self, _arrived: "Future[int]") -> None:
        self._ended = self._clock.now()

    def __repr__(self) -> str:
        return f"Incoming(from {self._source.instance}, {self._arrived})"
