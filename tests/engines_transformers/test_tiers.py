"""A cache is restored from whatever tier holds its blocks, and saved on the device where the pool has a tier there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

from memserve.config import DiskPlace
from memserve.core.enums import Tier
from memserve.core.ids import block_tier
from memserve.engines.device.arena import DeviceArena
from memserve.engines.transformers import KvStore, generate, kv_identity
from memserve.instance.mempool import MemPool
from tests.devices import DEVICES
from tests.engines_transformers.conftest import plain
from tests.engines_transformers.tiny import BLOCK_SIZE, prompt, tiny_model

NUM_BLOCKS = 4
TOKENS = prompt(NUM_BLOCKS * BLOCK_SIZE)


class Rig:
    """A pool of three tiers, of which the first holds one prompt."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.model: LlamaForCausalLM = tiny_model().to(device)
        self.file = folder / "tiers.kv"
        identity = kv_identity(self.model, block_size=BLOCK_SIZE)
        size = identity.block_bytes
        self.arena = DeviceArena(num_blocks=NUM_BLOCKS, block_bytes=size, device=device)
        self.pool = MemPool(
            instance="tiers",
            block_size=BLOCK_SIZE,
            block_bytes=size,
            dram_bytes=2 * NUM_BLOCKS * size,
            hbm=self.arena,
            identity=identity,
            cluster="transformerstiers",
            disk=DiskPlace(folder=str(folder), size_bytes=NUM_BLOCKS * (size + 3 * 4096)),
        )
        self.store = KvStore(self.pool, self.model, arena=self.arena)

    def compute(self, tokens: torch.Tensor) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)
        with torch.no_grad():
            self.model(tokens.to(self.model.device), past_key_values=cache)
        return cache

    def save(self, tokens: torch.Tensor) -> DynamicCache:
        cache = self.compute(tokens)
        assert self.store.save(tokens[0].numpy(), cache) == tokens.shape[1]
        return cache

    def tiers(self, tokens: torch.Tensor) -> set[Tier]:
        with self.pool.match(tokens[0].numpy()) as found:
            return {block_tier(block) for block in found.addresses.blocks}

    def move(self, tokens: torch.Tensor, tier: Tier) -> None:
        with self.pool.match(tokens[0].numpy()) as found:
            addresses = found.addresses
        self.pool.swap_in(addresses, target=tier)
        assert self.tiers(tokens) == {tier}


@pytest.fixture(params=DEVICES, ids=str)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, request.param)
    yield made
    made.pool.close()


def same(one: DynamicCache, other: DynamicCache, num_tokens: int) -> bool:
    return all(
        torch.equal(a.keys[:, :, :num_tokens], b.keys) and torch.equal(a.values[:, :, :num_tokens], b.values)
        for a, b in zip(one.layers, other.layers, strict=True)
    )


def test_the_same_bytes_come_back_from_every_tier(rig: Rig) -> None:
    saved = rig.save(TOKENS)
    assert rig.tiers(TOKENS) == {Tier.HBM}
    for tier in (Tier.HBM, Tier.DRAM, Tier.DISK):
        if tier is not Tier.HBM:
            rig.move(TOKENS, tier)
        restored, num_tokens = rig.store.restore(TOKENS[0].numpy())
        assert num_tokens == TOKENS.shape[1]
        assert same(saved, restored, num_tokens)


def test_what_a_full_device_makes_room_with_goes_to_dram_and_is_restored_from_there(rig: Rig) -> None:
    saved, other = rig.save(TOKENS), prompt(2 * BLOCK_SIZE, seed=7)
    rig.save(other)
    assert rig.tiers(other) == {Tier.HBM}
    assert rig.tiers(TOKENS) == {Tier.HBM, Tier.DRAM}
    restored, num_tokens = rig.store.restore(TOKENS[0].numpy())
    assert num_tokens == TOKENS.shape[1]
    assert same(saved, restored, num_tokens)


def test_a_block_that_the_disk_has_lost_ends_the_prefix_and_the_answer_is_the_same(rig: Rig) -> None:
    rig.save(TOKENS)
    rig.move(TOKENS, Tier.DISK)
    data = bytearray(rig.file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    rig.file.write_bytes(data)
    _, num_tokens = rig.store.restore(TOKENS[0].numpy())
    assert num_tokens < TOKENS.shape[1]
    with rig.pool.match(TOKENS[0].numpy()) as left:
        assert left.num_tokens == num_tokens
    ids = TOKENS.to(rig.model.device)
    assert generate(rig.model, ids, rig.store, max_new_tokens=6)[0].tolist() == plain(rig.model, ids, 6)
