"""Brings one rank's heads of engine blocks into another host's reserved room, over data connections.

KV goes from the engine's memory to a staging buffer of a few blocks and from there to the socket, or is shown to
NIXL there. A receiver that could not be reached is not tried again for a while, so that its requests fail at once
and delay no others. Blocks its caller; one thread at a time. Raises what RoomWriter.write raises.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain

import torch

from memserve.core.clock import Clock
from memserve.core.enums import PiecePlan
from memserve.core.errors import InstanceUnavailable
from memserve.engines.device.side_stream import Mark
from memserve.engines.vllm.block_copies import BlockCopies
from memserve.engines.vllm.layout import EngineMemory
from memserve.transfer.plan import pieces
from memserve.transport.rooms import Part, RemoteRoom, RoomWriter, cut

STAGING_BYTES = 8 << 20
"""Or one block, when that is longer. What is staged together goes in one frame."""
RETRY_S = 10.0


class NetworkSender:
    """Sends for one rank."""

    def __init__(
        self,
        *,
        memory: EngineMemory,
        copies: BlockCopies,
        transport: RoomWriter,
        clock: Clock,
        plan: PiecePlan = PiecePlan.AGGREGATED,
    ) -> None:
        self._memory = memory
        self._plan = plan
        self._copies = copies
        self._transport = transport
        self._clock = clock
        self._staging = torch.empty(0, dtype=torch.uint8)
        self._lost: dict[str, float] = {}

    def send_whole(
        self, room: RemoteRoom, mark: Mark, engine_blocks: Sequence[int], arena_blocks: Sequence[int]
    ) -> int:
        """All layers of each block: in one piece, or layer after layer where other ranks' heads lie in between.

        Returns how many frames it took.
        """
        memory = self._memory
        if memory.holds_all_heads:
            whole = self._parts(
                engine_blocks,
                arena_blocks,
                copy=partial(self._copies.write_out, mark),
                offset=0,
                length=memory.layout.block_bytes,
            )
            return self._send(room, whole, length=memory.layout.block_bytes, num_layers=memory.layout.num_layers)
        pages = (self._pages(layer, mark, engine_blocks, arena_blocks) for layer in memory.layers)
        return self._send(room, chain.from_iterable(pages), length=memory.page_bytes, num_layers=1)

    def send_layer(
        self, room: RemoteRoom, layer: str, mark: Mark, engine_blocks: Sequence[int], arena_blocks: Sequence[int]
    ) -> int:
        """One layer's page of each block. Returns how many frames it took."""
        pages = self._pages(layer, mark, engine_blocks, arena_blocks)
        return self._send(room, pages, length=self._memory.page_bytes, num_layers=1)

    def _pages(
        self, layer: str, mark: Mark, engine_blocks: Sequence[int], arena_blocks: Sequence[int]
    ) -> Iterator[Part]:
        memory = self._memory
        return self._parts(
            engine_blocks,
            arena_blocks,
            copy=partial(self._copies.write_out_page, mark, layer),
            offset=memory.page_offset(layer),
            length=memory.page_bytes,
        )

    def _send(self, room: RemoteRoom, parts: Iterator[Part], *, length: int, num_layers: int) -> int:
        if self._clock.now() < self._lost.get(room.endpoint, 0.0):
            raise InstanceUnavailable(f"{room.endpoint} could not be reached less than {RETRY_S:g} s ago")
        try:
            num_frames = self._transport.write(
                room, cut(parts, pieces(self._plan, num_bytes=length, num_layers=num_layers))
            )
        except InstanceUnavailable:
            self._lost[room.endpoint] = self._clock.now() + RETRY_S
            raise
        self._lost.pop(room.endpoint, None)
        return num_frames

    def _parts(
        self,
        engine_blocks: Sequence[int],
        arena_blocks: Sequence[int],
        *,
        copy: Callable[[Sequence[int], Sequence[torch.Tensor]], None],
        offset: int,
        length: int,
    ) -> Iterator[Part]:
        at_once = max(1, STAGING_BYTES // length)
        for first in range(0, len(engine_blocks), at_once):
            blocks = engine_blocks[first : first + at_once]
            staged = self._room_for(len(blocks) * length)
            copy(blocks, tuple(staged.view(len(blocks), length)))
            whole = memoryview(self._staging.numpy())
            yield Part(
                blocks=tuple(arena_blocks[first : first + at_once]),
                offset=offset,
                data=tuple(whole[start : start + length] for start in range(0, len(staged), length)),
            )

    def _room_for(self, num_bytes: int) -> torch.Tensor:
        if len(self._staging) < num_bytes:
            self._staging = torch.empty(max(num_bytes, STAGING_BYTES), dtype=torch.uint8)
        return self._staging[:num_bytes]

    def __repr__(self) -> str:
        return f"NetworkSender({self._transport}, {len(self._staging)} bytes staged, {len(self._lost)} receivers lost)"
