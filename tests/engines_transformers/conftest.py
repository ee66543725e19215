"""One tiny model for the run and a pool for each test, with a check that nothing stays in shared memory."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from memserve.engines.transformers import KvStore
from memserve.instance.mempool import MemPool
from tests.engines_transformers.tiny import NEW_TOKENS, pool_for, tiny_model


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Torch's threads spin while they wait: beside other processes two are many times slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model() -> LlamaForCausalLM:
    return tiny_model()


@pytest.fixture
def pool(model: LlamaForCausalLM) -> Iterator[MemPool]:
    with pool_for(model, instance="a") as made:
        yield made
    assert not list(Path("/dev/shm").glob(f"memserve-transformerstest{os.getpid()}-*"))  # noqa: S108


@pytest.fixture
def store(pool: MemPool, model: LlamaForCausalLM) -> KvStore:
    return KvStore(pool, model)


def plain(model: LlamaForCausalLM, input_ids: torch.Tensor, new_tokens: int = NEW_TOKENS) -> list[int]:
    """The truth: the model's own tokens, computed from nothing."""
    whole = torch.ones_like(input_ids)
    output = model.generate(input_ids, attention_mask=whole, max_new_tokens=new_tokens, do_sample=False)
    return output[0].tolist()  # type: ignore[no-any-return]
