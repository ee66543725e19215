"""A pool in a process of its own that stores and drops prompts at random when told to. Not a test.

python -m tests.serving.pool_process CLUSTER MANAGER INSTANCE ROLE SEED

Lines in, lines out: "work N" does N things and says "done", "held" says as JSON how many tokens of each
prompt of UNIVERSE it holds.
"""

import json
import sys
from random import Random

import numpy as np

from memserve.core.enums import Role, Tier
from memserve.core.errors import PoolExhausted
from memserve.instance.mempool import MemPool
from memserve.wire.messages import Load

BLOCK_SIZE, BLOCK_BYTES = 4, 4096
WIDTH = BLOCK_SIZE * 4


def universe() -> list[tuple[bytes, bytes]]:
    """(namespace, prompt) of all prompts there are: few distinct blocks, so that they share beginnings."""
    random = Random(7)
    prompts = [
        np.repeat(np.array(random.choices(range(3), k=random.randint(1, 12)), dtype="<i4"), BLOCK_SIZE).tobytes()
        for _ in range(100)
    ]
    return [(namespace, prompt) for namespace in (b"", b"tenant") for prompt in prompts]


UNIVERSE = universe()


def work(pool: MemPool, random: Random) -> None:
    namespace, prompt = random.choice(UNIVERSE)
    try:
        match random.choices(("insert", "delete", "swap"), (8, 1, 1))[0]:
            case "insert":
                tier = random.choice((Tier.DRAM, Tier.HBM))
                pool.insert(prompt, pool.alloc_mem(len(prompt) // WIDTH, tier=tier), namespace=namespace)
            case "delete":
                end = random.randint(1, len(prompt) // WIDTH) * WIDTH
                pool.delete(prompt[:end], namespace=namespace)
            case _:
                pool.swap_out(1)
    except PoolExhausted:
        pass  # nothing is cached in HBM, or no room is left for what is swapped out


def held(pool: MemPool) -> list[int]:
    found = []
    for namespace, prompt in UNIVERSE:
        with pool.match(prompt, namespace=namespace) as match:
            found.append(match.num_tokens)
    return found


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    cluster, manager, instance, role, seed = sys.argv[1:]
    random = Random(int(seed))
    with MemPool(
        instance=instance,
        block_size=BLOCK_SIZE,
        block_bytes=BLOCK_BYTES,
        dram_bytes=96 * BLOCK_BYTES,
        hbm_bytes=48 * BLOCK_BYTES,
        cluster=cluster,
    ) as pool:
        pool.membership.join(manager, cluster=cluster, role=Role(role), url="", load=Load)
        for line in sys.stdin:
            command, _, number = line.strip().partition(" ")
            if command == "held":
                say(json.dumps(held(pool)))
            else:
                for _ in range(int(number)):
                    work(pool, random)
                say("done")


if __name__ == "__main__":
    main()
