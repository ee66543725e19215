"""How long it takes to have cached blocks sent from the engine's pool, path by path.

Owns one pool of its own for each path; it pulls prefixes that the engine has stored and forgets them again.
Blocks: call it outside of an event loop.
"""

from array import array
from collections.abc import Iterable, Sequence

from memserve.calibration.schedule import Moves
from memserve.core.clock import Clock
from memserve.core.enums import DataPath
from memserve.instance.mempool import MemPool
from memserve.scheduler.cost_model import TransferSample
from memserve.wire.messages import PeerInfo

PULL_DEADLINE_S = 10.0


def measure_moves(
    holder: PeerInfo,
    *,
    path: DataPath,
    cluster: str,
    prompt: Sequence[int],
    moves: Iterable[Moves],
    clock: Clock,
) -> list[tuple[Moves, TransferSample]]:
    """One sample of each of `moves` whose blocks the holder has. Raises what a pull raises."""
    identity = holder.identity
    size = identity.block_size
    wanted = list(moves)
    samples = []
    with MemPool(
        instance=f"calibration-{path}",
        block_size=size,
        block_bytes=identity.block_bytes,
        dram_bytes=identity.block_bytes * (max(m.num_blocks for m in wanted) + 1),
        identity=identity,
        cluster=cluster,
        paths=(path,),
    ) as pool:
        peer = pool.connect(holder.endpoint)
        for move in wanted:
            tokens = array("i", prompt[: move.num_blocks * size])
            started = clock.now()
            came = pool.pull(peer, tokens.tobytes(), deadline_s=PULL_DEADLINE_S).result()
            seconds = clock.now() - started
            pool.delete(tokens[:size])  # with all that continues it
            if came == len(tokens):
                num_bytes = move.num_blocks * identity.block_bytes
                samples.append((move, TransferSample(num_bytes=num_bytes, seconds=seconds)))
    return samples
