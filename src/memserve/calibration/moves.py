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
    """One sample of each of `moves` whose blocks the holder has. Raises what a pull raises.

    The longest goes ahead unmeasured: it opens connections, touches memory and has the holder take its checksums, as
    a pull between instances that know each other finds it done.
    """
    identity = holder.identity
    size = identity.block_size
    wanted = list(moves)
    longest = max(move.num_blocks for move in wanted)
    samples = []
    with MemPool(
        instance=f"calibration-{path}",
        block_size=size,
        block_bytes=identity.block_bytes,
        dram_bytes=identity.block_bytes * (longest + 1),
        identity=identity,
        cluster=cluster,
        paths=(path,),
    ) as pool:
        peer = pool.connect(holder.endpoint)
        _pull(pool, peer, array("i", prompt[: longest * size]), clock=clock)
        for move in wanted:
            tokens = array("i", prompt[: move.num_blocks * size])
            came, seconds = _pull(pool, peer, tokens, clock=clock)
            if came == len(tokens):
                num_bytes = move.num_blocks * identity.block_bytes
                samples.append((move, TransferSample(num_bytes=num_bytes, seconds=seconds)))
    return samples


def _pull(pool: MemPool, peer: PeerInfo, tokens: "array[int]", *, clock: Clock) -> tuple[int, float]:
    """How many tokens came and in how many seconds; they are forgotten again."""
    started = clock.now()
    came = pool.pull(peer, tokens.tobytes(), deadline_s=PULL_DEADLINE_S).result()
    seconds = clock.now() - started
    pool.delete(tokens[: pool.info.identity.block_size])  # with all that continues it
    return came, seconds
