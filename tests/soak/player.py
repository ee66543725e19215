"""Random calls on one pool and its peers, whose bytes can be checked wherever they are found.

A block's bytes follow from the tokens up to its end, so whoever finds a prompt knows what it has to read. Everything
that a call leaves behind is remembered, and given back by `drop_all`.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random

from memserve.core.enums import DataPath, Tier
from memserve.core.errors import (
    ConfigError,
    InstanceUnavailable,
    InvalidBlocks,
    MemserveError,
    PoolExhausted,
    QuotaExceeded,
    TransferFailed,
)
from memserve.core.ids import PinId, RequestId, TransferId, block_index
from memserve.instance.mempool import MemPool
from memserve.instance.records import PoolMatch
from memserve.storage.shared_memory import attach
from memserve.wire.messages import BlockList, CommitRequest, PeerInfo, ReserveRequest
from tests.serving.pool_process import UNIVERSE, WIDTH

BLOCK_BYTES = 16384
NUM_BLOCKS = 96
_EXPECTED = (PoolExhausted, QuotaExceeded, InstanceUnavailable, TransferFailed, InvalidBlocks, ConfigError)
"""What random calls run into: full pools, dead peers, blocks that went with them, two resizes at a time."""
_MAX_HELD = 8


class WrongBytesError(Exception):
    """A block that was found does not hold what its prompt says."""


def contents(namespace: bytes, prompt: bytes) -> list[bytes]:
    """Bytes of each block of a prompt."""
    ends = range(WIDTH, len(prompt) + 1, WIDTH)
    digests = [hashlib.blake2b(namespace + prompt[:end], digest_size=32).digest() for end in ends]
    return [digest * (BLOCK_BYTES // 32) for digest in digests]


class Player:
    """One thread's calls."""

    def __init__(self, pool: MemPool, *, peers: Callable[[], list[str]], random: Random) -> None:
        self._pool = pool
        self._peers = peers
        self._random = random
        self._blocks: list[BlockList] = []
        self._matches: list[PoolMatch] = []
        self._pins: list[PinId] = []
        self._rooms: list[tuple[PeerInfo, TransferId]] = []
        self._number = 0
        self.calls: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._plays = {
            self.store: 8,
            self.find: 8,
            self.delete: 2,
            self.send: 4,
            self.send_and_index: 4,
            self.hold_at_peer: 2,
            self.pull: 4,
            self.hand_over: 3,
            self.pin: 1,
            self.unpin: 1,
            self.resize: 1,
            self.promote: 3,
            self.demote: 2,
            self.drop_some: 3,
        }

    def play(self) -> None:
        """One random call. Raises what no random call should run into."""
        what = self._random.choices([*self._plays], [*self._plays.values()])[0]
        self.calls[what.__name__] += 1
        try:
            what()
        except _EXPECTED as error:
            self.errors[type(error).__name__] += 1

    def drop_all(self) -> None:
        """Give back everything that is held, here and at peers that still are there."""
        for match in self._matches:
            match.release()
        for pin in self._pins:
            self._pool.pins.unpin(pin)
        with ThreadPoolExecutor(32) as threads:  # each that is gone takes a deadline to notice
            threads.map(self._free, self._blocks)
            threads.map(self._abort, self._rooms)

    def _free(self, blocks: BlockList) -> None:
        with suppress(MemserveError):
            self._pool.free_mem(blocks)

    def _abort(self, room: tuple[PeerInfo, TransferId]) -> None:
        with suppress(MemserveError):
            self._pool.engine_path.abort(*room).result()

    def store(self) -> None:
        namespace, prompt = self._prompt()
        self._pool.insert(prompt, self._written(namespace, prompt), namespace=namespace, ttl_s=self._ttl_s())

    def find(self) -> None:
        namespace, prompt = self._prompt()
        match = self._pool.match(prompt, namespace=namespace)
        self._check(match.addresses, namespace, prompt)
        if len(self._matches) < _MAX_HELD:
            self._matches.append(match)
        else:
            match.release()

    def delete(self) -> None:
        namespace, prompt = self._prompt()
        self._pool.delete(prompt, namespace=namespace)

    def send(self) -> None:
        """The receiver holds it for us until we free it."""
        namespace, prompt = self._prompt()
        source = self._written(namespace, prompt)
        try:
            self._keep(self._pool.transfer(self._peer(), source))
        finally:
            self._pool.free_mem(source)

    def send_and_index(self) -> None:
        namespace, prompt = self._prompt()
        source = self._written(namespace, prompt)
        try:
            self._pool.transfer_with_insert(self._peer(), prompt, source, namespace=namespace)
        finally:
            self._pool.free_mem(source)

    def hold_at_peer(self) -> None:
        self._keep(self._pool.alloc_mem(self._random.randint(1, 4), on=self._peer()))

    def pull(self) -> None:
        namespace, prompt = self._prompt()
        self._pool.pull(self._peer(), prompt, namespace=namespace, deadline_s=5.0).result()
        with self._pool.match(prompt, namespace=namespace) as match:
            self._check(match.addresses, namespace, prompt)

    def hand_over(self) -> None:
        """As an engine does: reserve, write into the peer's memory, then commit, abort, or abort much later."""
        namespace, prompt = self._prompt()
        peer = self._peer()
        self._number += 1
        transfer = TransferId(f"{self._pool.info.instance}/{self._pool.info.incarnation}/{id(self)}/{self._number}")
        request = ReserveRequest(
            transfer=transfer,
            request=RequestId(transfer),
            sender=self._pool.info.instance,
            incarnation=self._pool.info.incarnation,
            tokens=prompt,
            namespace=namespace,
            reuse=True,
            tail=False,
            handoff=False,
            ttl_s=3.0,
        )
        deadline = time.monotonic() + 2.0
        self._rooms.append((peer, transfer))
        if len(self._rooms) > _MAX_HELD:
            self._abort(self._rooms.pop(0))
        room = self._pool.engine_path.reserve(peer, request).result()
        if peer.arena is None or self._pool.path_to(peer) is not DataPath.SHM or self._random.random() < 0.2:
            self._pool.engine_path.abort(peer, transfer).result()
            self._rooms.pop()
            return
        arena = attach(peer.arena)
        for block, data in zip(room.blocks, contents(namespace, prompt)[room.num_held_blocks :], strict=True):
            if time.monotonic() > deadline:
                return
            arena.view(block_index(block))[:] = data
        if self._random.random() < 0.8:
            commit = CommitRequest(transfer=transfer, num_blocks=len(room.blocks), insert=True)
            self._pool.engine_path.commit(peer, commit).result()
            self._rooms.pop()

    def pin(self) -> None:
        namespace, prompt = self._prompt()
        self._pins.append(self._pool.pins.pin(prompt, namespace=namespace).pin)

    def unpin(self) -> None:
        if self._pins:
            self._pool.pins.unpin(self._pins.pop(self._random.randrange(len(self._pins))))

    def resize(self) -> None:
        self._pool.resize(self._random.randint(NUM_BLOCKS // 2, NUM_BLOCKS * 2) * BLOCK_BYTES)

    def promote(self) -> None:
        """Whoever finds a prompt may find it on disk: nothing that was whole there may be lost or wrong."""
        namespace, prompt = self._prompt()
        before = self._num_read_errors()
        self._pool.tiers.promote(prompt, namespace=namespace, deadline_s=5.0).result()
        if self._num_read_errors() != before:
            raise WrongBytesError("a block on disk is not as it was written")
        with self._pool.match(prompt, namespace=namespace) as match:
            self._check(match.addresses, namespace, prompt)

    def demote(self) -> None:
        self._pool.swap_out(self._random.randint(1, 8), source=Tier.DRAM, target=Tier.DISK)

    def drop_some(self) -> None:
        if self._matches:
            self._matches.pop(self._random.randrange(len(self._matches))).release()
        if self._blocks:
            self._pool.free_mem(self._blocks.pop(self._random.randrange(len(self._blocks))))

    def _num_read_errors(self) -> int:
        disk = self._pool.stats().disk
        return disk.num_read_errors if disk is not None else 0

    def _prompt(self) -> tuple[bytes, bytes]:
        return self._random.choice(UNIVERSE)

    def _ttl_s(self) -> float | None:
        return self._random.choice((None, None, 0.5, 5.0))

    def _peer(self) -> PeerInfo:
        endpoints = self._peers()
        if not endpoints:
            raise InstanceUnavailable("nobody else is there")
        return self._pool.connect(self._random.choice(endpoints))

    def _written(self, namespace: bytes, prompt: bytes) -> BlockList:
        blocks = self._pool.alloc_mem(len(prompt) // WIDTH)
        self._pool.write(blocks, b"".join(contents(namespace, prompt)))
        return blocks

    def _keep(self, blocks: BlockList) -> None:
        self._blocks.append(blocks)
        if len(self._blocks) > _MAX_HELD:
            self._pool.free_mem(self._blocks.pop(0))

    def _check(self, found: BlockList, namespace: bytes, prompt: bytes) -> None:
        expected = contents(namespace, prompt)[: len(found.blocks)]
        if found.blocks and self._pool.read(found) != b"".join(expected):
            raise WrongBytesError(f"{len(found.blocks)} blocks of a prompt of {len(prompt) // WIDTH} are not its own")
