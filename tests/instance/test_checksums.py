"""Checksums of what is sent: kept for bytes that cannot change, taken anew for those that can."""

import os

import pytest

from memserve.core.errors import TransferFailed
from memserve.instance.mempool import MemPool
from tests.instance.conftest import BLOCK_BYTES, MakePool
from tests.transport.paths import PATHS

TOKENS = list(range(8))


@pytest.fixture(params=PATHS)
def pools(request: pytest.FixtureRequest, make_pool: MakePool) -> tuple[MemPool, MemPool]:
    return make_pool("near", paths=(request.param,)), make_pool("far", paths=(request.param,))


def test_active_blocks_that_were_written_again_are_sent_as_they_are_now(pools: tuple[MemPool, MemPool]) -> None:
    near, far = pools
    peer, source = near.connect(far.info.endpoint), near.alloc_mem(2)
    for _ in range(3):
        data = os.urandom(2 * BLOCK_BYTES)
        near.write(source, data)
        assert far.read(near.transfer(peer, source)) == data


def test_an_indexed_block_that_was_damaged_since_it_was_first_sent_is_not_taken(
    pools: tuple[MemPool, MemPool],
) -> None:
    near, far = pools
    peer, source = near.connect(far.info.endpoint), near.alloc_mem(2)
    near.write(source, os.urandom(2 * BLOCK_BYTES))
    near.insert(TOKENS, source)
    near.transfer(peer, source)
    near.view(source.blocks[1])[7] ^= 1
    with pytest.raises(TransferFailed, match="checksum"):
        near.transfer_with_insert(peer, TOKENS, source)
    assert far.match(TOKENS).num_tokens == 0


def test_what_takes_the_place_of_a_freed_block_is_sent_with_its_own_checksum(pools: tuple[MemPool, MemPool]) -> None:
    near, far = pools
    peer = near.connect(far.info.endpoint)
    for turn in range(3):
        source, data = near.alloc_mem(2), os.urandom(2 * BLOCK_BYTES)
        near.write(source, data)
        near.insert(TOKENS, source)
        sent = near.transfer(peer, source)
        assert far.read(sent) == data, turn
        near.free_mem(sent)
        near.delete(TOKENS[:4])
