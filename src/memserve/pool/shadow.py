"""What a pool would hold if one ranking had always decided: names of blocks, no bytes, for a sample of all blocks.

    prompt ──> names of the sampled prefixes ──> looked_up, stored ──> how many of them this ranking would have kept

Owns the sample and the names. A block is in the sample by its own first token, wherever it stands, so that a
fraction of the blocks stands for a pool of that fraction of the size (SHARDS, FAST 2015). Exact where the whole
pool has no more blocks than the sample may have.
"""

from heapq import heapify, heappop, heappush

import numpy as np
import xxhash

from memserve.pool.ranking import Ranking
from memserve.pool.tokens import TOKEN_BYTES
from memserve.wire.identity import Namespace

MAX_NAMES = 4096
"""Of one shadow, once it is known how many blocks the pool can hold; twice that before."""

_MIX = np.uint32(2654435761)
"""Knuth's multiplier: neighbouring token ids come out far from each other."""
_LOW_BITS = (1 << 32) - 1


class PrefixSample:
    """Names of the sampled prefixes of a prompt. A name's low 32 bits say up to which share it is in the sample."""

    def __init__(self) -> None:
        self._limit = 1 << 32

    def __repr__(self) -> str:
        return f"PrefixSample({self.share:.2%})"

    @property
    def share(self) -> float:
        """Of all blocks."""
        return self._limit / (1 << 32)

    def halve(self) -> None:
        self._limit >>= 1

    def __contains__(self, name: int) -> bool:
        return name & _LOW_BITS < self._limit

    def names(self, data: bytes, *, width: int, namespace: Namespace) -> list[int]:
        """Of the prefixes that end in a sampled block of `width` bytes, longest first."""
        marks = np.frombuffer(data, dtype="<u4")[:: width // TOKEN_BYTES] * _MIX
        digest, at, names = xxhash.xxh3_64(namespace), 0, []
        view = memoryview(data)
        for position in np.flatnonzero(marks < self._limit).tolist():
            end = (position + 1) * width
            digest.update(view[at:end])
            at = end
            names.append(digest.intdigest() & ~_LOW_BITS | int(marks[position]))
        names.reverse()
        return names


class _Named:
    """Usage of one block."""

    __slots__ = ("hits", "inserted_at", "used_at")

    def __init__(self, tick: int) -> None:
        self.hits = 1
        self.inserted_at = tick
        self.used_at = tick


class Shadow:
    """One ranking's own pool, of names."""

    def __init__(self, ranking: Ranking) -> None:
        self._ranking = ranking
        self._held: dict[int, _Named] = {}
        self._heap: list[tuple[tuple[int, ...], int]] = []
        """One entry of each name, by its rank some time ago; a rank only grows."""
        self._tick = 0

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"Shadow({type(self._ranking).__name__}, {len(self._held)} names)"

    def looked_up(self, names: list[int]) -> list[bool]:
        """Which of these prefixes, longest first, it holds: all of those count as used."""
        return [self._use(name) for name in names]

    def stored(self, names: list[int], *, capacity: int | None) -> None:
        """These prefixes, longest first, are used, and held from now on; room for new ones is made before."""
        num_new = sum(name not in self._held for name in names)
        while capacity is not None and self._held and len(self._held) + num_new > capacity:
            rank, name = heappop(self._heap)
            current = self._ranking.rank(self._held[name])
            if current > rank:
                heappush(self._heap, (current, name))
            else:
                del self._held[name]
        for name in names:
            if not self._use(name):
                self._held[name] = named = _Named(self._tick)
                heappush(self._heap, (self._ranking.rank(named), name))

    def keep(self, sample: PrefixSample) -> None:
        """Forget what is no longer in the sample."""
        self._held = {name: named for name, named in self._held.items() if name in sample}
        self._heap = [entry for entry in self._heap if entry[1] in sample]
        heapify(self._heap)

    def _use(self, name: int) -> bool:
        self._tick += 1
        named = self._held.get(name)
        if named is None:
            return False
        named.used_at = self._tick
        named.hits += 1
        return True
