"""memserve's radix index as a measured system."""

from time import perf_counter_ns

from memserve import __version__
from memserve.bench.prompts import BLOCK_SIZE, Tokens
from memserve.bench.systems.index_child import serve_index
from memserve.core.enums import Tier
from memserve.core.ids import BlockId, make_block_id
from memserve.pool.radix_index import RadixIndex


class MemserveIndex:
    """Ids come ready from the allocator in a pool, so they are made before the clock starts."""

    version = __version__
    forms: tuple[str, ...] = ("int32", "list")

    def open(self, num_blocks: int) -> None:
        self._index = RadixIndex(block_size=BLOCK_SIZE)
        self._free = [make_block_id(Tier.DRAM, 0, number) for number in reversed(range(num_blocks))]

    def insert(self, tokens: Tokens, known: int, form: str) -> int:
        new = [self._free.pop() for _ in range(tokens.size // BLOCK_SIZE - known)]
        blocks: list[BlockId] = [*self._index.match(tokens[: known * BLOCK_SIZE]), *new]
        given = tokens.tolist() if form == "list" else tokens
        start = perf_counter_ns()
        self._index.insert(given, blocks)
        return perf_counter_ns() - start

    def match(self, tokens: Tokens, form: str) -> tuple[int, int]:
        given = tokens.tolist() if form == "list" else tokens
        start = perf_counter_ns()
        blocks = self._index.match(given)
        return perf_counter_ns() - start, len(blocks)

    def variants(self, tokens: Tokens) -> dict[str, int]:
        return {}


if __name__ == "__main__":
    serve_index(MemserveIndex)
