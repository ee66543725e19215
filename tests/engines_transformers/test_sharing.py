"""One process computes, another one continues: through the pools, which know nothing of the engine."""

import json
import os
import subprocess
import sys

import pytest
from transformers import LlamaForCausalLM

from memserve.core.errors import IdentityMismatch
from memserve.engines.transformers import KvStore, generate
from memserve.instance.mempool import MemPool
from tests.engines_transformers.conftest import plain
from tests.engines_transformers.tiny import NEW_TOKENS, pool_for, prompt, tiny_model


def test_another_process_continues_from_what_was_transferred_to_it(
    pool: MemPool, store: KvStore, model: LlamaForCausalLM
) -> None:
    command = [sys.executable, "-m", "tests.engines_transformers.peer_process", f"transformerstest{os.getpid()}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        generate(model, prompt(50), store, max_new_tokens=1, do_sample=False)
        there = pool.connect(peer.stdout.readline().strip())
        with pool.match(prompt(50)[0].numpy()) as found:
            pool.transfer_with_insert(there, prompt(50)[0, :48].numpy(), found.addresses)
        answer, _ = peer.communicate(json.dumps(prompt(55)[0].tolist()) + "\n", timeout=60)
    restored, tokens = json.loads(answer)
    assert restored == 48
    assert tokens == plain(model, prompt(55), NEW_TOKENS)


def test_a_pool_of_another_model_refuses_to_share(pool: MemPool) -> None:
    with pool_for(tiny_model(seed=1), instance="other") as other, pytest.raises(IdentityMismatch, match="model: "):
        pool.connect(other.info.endpoint)
