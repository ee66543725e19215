"""A second process with the same model and a pool of its own: answers one prompt from what it was sent.

python -m tests.engines_transformers.peer_process CLUSTER; prints its endpoint, reads token ids as a JSON list
from a line of standard input, prints [tokens restored, all tokens generated].
"""

import json
import sys

import torch

from memserve.engines.transformers import KvStore, generate
from tests.engines_transformers.tiny import NEW_TOKENS, pool_for, tiny_model


def main() -> None:
    model = tiny_model()
    with pool_for(model, instance="b", cluster=sys.argv[1]) as pool:
        store = KvStore(pool, model)
        sys.stdout.write(f"{pool.info.endpoint}\n")
        sys.stdout.flush()
        tokens = json.loads(sys.stdin.readline())
        _, restored = store.restore(tokens)
        output = generate(model, torch.tensor([tokens]), store, max_new_tokens=NEW_TOKENS, do_sample=False)
        sys.stdout.write(json.dumps([restored, output[0].tolist()]) + "\n")


if __name__ == "__main__":
    main()
