"""The nine calls of the paper's Table 1, on one pool and between two."""

import os

import pytest

from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, InstanceUnavailable, InvalidBlocks, InvalidTokens, PoolExhausted
from memserve.instance.mempool import MemPool
from memserve.wire.messages import BlockList
from tests.instance.conftest import BLOCK_BYTES, MakePool

TOKENS = list(range(8))


def filled(pool: MemPool, num_blocks: int = 2, *, tier: Tier = Tier.DRAM) -> tuple[BlockList, bytes]:
    addresses = pool.alloc_mem(num_blocks, tier=tier)
    data = os.urandom(num_blocks * BLOCK_BYTES)
    pool.write(addresses, data)
    return addresses, data


def num_reserved(pool: MemPool, tier: Tier = Tier.DRAM) -> int:
    return next(stats.num_reserved for stats in pool.stats().tiers if stats.tier is tier)


def test_what_is_written_is_read_and_free_ends_it(a: MemPool) -> None:
    addresses, data = filled(a)
    assert a.read(addresses) == data
    a.free_mem(addresses)
    with pytest.raises(InvalidBlocks):
        a.read(addresses)
    with pytest.raises(InvalidBlocks):
        a.free_mem(addresses)


def test_an_inserted_prefix_is_matched_and_survives_pressure_while_leased(a: MemPool) -> None:
    addresses, data = filled(a)
    assert a.insert(TOKENS, addresses) == addresses
    with a.match([*TOKENS, 77]) as match:
        assert match.num_tokens == 8
        with pytest.raises(PoolExhausted):
            a.alloc_mem(15)
        assert a.read(match.addresses) == data
    a.alloc_mem(16)
    assert a.match(TOKENS).num_tokens == 0


def test_releasing_a_match_twice_or_an_empty_one_does_nothing(a: MemPool) -> None:
    addresses, _ = filled(a)
    a.insert(TOKENS, addresses)
    match = a.match(TOKENS)
    match.release()
    match.release()
    a.match([5, 6, 7, 8]).release()
    assert a.stats().num_leases == 0


def test_inserting_a_prefix_twice_keeps_the_first_copy(a: MemPool) -> None:
    first, data = filled(a)
    second, _ = filled(a)
    a.insert(TOKENS, first)
    assert a.insert(TOKENS, second) == first
    assert num_reserved(a) == 0
    with a.match(TOKENS) as match:
        assert a.read(match.addresses) == data


def test_indexed_blocks_are_not_written_any_more(a: MemPool) -> None:
    addresses, data = filled(a)
    a.insert(TOKENS, addresses)
    with pytest.raises(InvalidBlocks, match="cannot be written"):
        a.write(addresses, data)


def test_namespaces_do_not_see_each_other(a: MemPool) -> None:
    addresses, _ = filled(a)
    a.insert(TOKENS, addresses, namespace=b"tenant")
    assert a.match(TOKENS).num_tokens == 0
    assert a.match(TOKENS, namespace=b"tenant").num_tokens == 8
    assert a.delete(TOKENS, namespace=b"tenant") == 1


def test_blocks_move_between_tiers_with_their_bytes(make_pool: MakePool) -> None:
    pool = make_pool("tiers", hbm_bytes=4 * BLOCK_BYTES)
    addresses, data = filled(pool, tier=Tier.HBM)
    pool.insert(TOKENS, addresses)
    assert pool.swap_out(2) == 2
    with pool.match(TOKENS) as match:
        assert {block >> 60 for block in match.addresses.blocks} == {int(Tier.DRAM)}
        assert pool.read(match.addresses) == data
        lower = match.addresses
    raised = pool.swap_in(lower)
    with pool.match(TOKENS) as match:
        assert match.addresses == raised
        assert pool.read(raised) == data


@pytest.mark.parametrize("size", [0, 1, 2 * BLOCK_BYTES - 1, 2 * BLOCK_BYTES + 1])
def test_a_write_of_a_wrong_size_is_refused(a: MemPool, size: int) -> None:
    addresses, data = filled(a)
    with pytest.raises(InvalidBlocks, match="2 blocks of 4096 bytes"):
        a.write(addresses, bytes(size))
    assert a.read(addresses) == data


@pytest.mark.parametrize("num_tokens", [0, 4, 7, 9, 12])
def test_tokens_that_do_not_fill_the_blocks_are_refused(a: MemPool, num_tokens: int) -> None:
    addresses, _ = filled(a)
    with pytest.raises(InvalidTokens, match="2 blocks of 4 tokens"):
        a.insert(list(range(num_tokens)), addresses)
    assert num_reserved(a) == 2


@pytest.mark.parametrize("num_blocks", [0, -1, 17, 2**40])
def test_an_impossible_number_of_blocks_is_refused(a: MemPool, num_blocks: int) -> None:
    with pytest.raises((InvalidBlocks, PoolExhausted)):
        a.alloc_mem(num_blocks)
    assert num_reserved(a) == 0


def test_another_pools_blocks_are_refused_everywhere(a: MemPool, b: MemPool) -> None:
    foreign, data = filled(b)
    for attempt in (
        lambda: a.read(foreign),
        lambda: a.write(foreign, data),
        lambda: a.insert(TOKENS, foreign),
        lambda: a.swap_in(foreign),
        lambda: a.transfer(b.info, foreign),
    ):
        with pytest.raises(InvalidBlocks, match="are not here"):
            attempt()
    with pytest.raises(InstanceUnavailable, match="connect"):
        a.free_mem(foreign)


def test_a_transfer_brings_the_bytes_and_the_private_data(a: MemPool, b: MemPool) -> None:
    source, data = filled(a)
    there = a.transfer(a.connect(b.info.endpoint), source, private=b"for you")
    received = b.take_received(deadline_s=10)
    assert received is not None
    assert (received.addresses, received.private, received.sender) == (there, b"for you", a.info)
    assert b.read(there) == data
    a.free_mem(there)
    assert num_reserved(b) == 0


def test_transfer_with_insert_needs_one_control_round_trip(a: MemPool, b: MemPool) -> None:
    source, data = filled(a)
    peer = a.connect(b.info.endpoint)
    there = a.transfer_with_insert(peer, TOKENS, source)
    assert a.num_control_calls(peer) == 1
    with b.match(TOKENS) as match:
        assert match.addresses == there
        assert b.read(there) == data


def test_blocks_allocated_on_a_peer_can_be_the_destination(a: MemPool, b: MemPool) -> None:
    peer = a.connect(b.info.endpoint)
    there = a.alloc_mem(2, on=peer)
    source, data = filled(a)
    assert a.transfer(peer, source, destination=there) == there
    assert b.read(there) == data
    a.free_mem(there)
    assert num_reserved(b) == 0


def test_destinations_that_overlap_or_are_not_the_senders_are_refused(a: MemPool, b: MemPool) -> None:
    peer = a.connect(b.info.endpoint)
    there = a.alloc_mem(2, on=peer)
    source, _ = filled(a)
    mine, _ = filled(b)
    twice = BlockList(instance=there.instance, incarnation=there.incarnation, blocks=(there.blocks[0],) * 2)
    for wrong in (twice, mine, source):
        with pytest.raises(InvalidBlocks):
            a.transfer(peer, source, destination=wrong)
    assert (num_reserved(a), num_reserved(b)) == (2, 4)


def test_hbm_blocks_travel_by_way_of_dram(make_pool: MakePool, b: MemPool) -> None:
    pool = make_pool("hbm", hbm_bytes=4 * BLOCK_BYTES)
    source, data = filled(pool, tier=Tier.HBM)
    there = pool.transfer_with_insert(pool.connect(b.info.endpoint), TOKENS, source)
    assert b.read(there) == data
    assert num_reserved(pool) == 0


def test_a_receiver_without_room_refuses_and_nothing_stays(a: MemPool, b: MemPool) -> None:
    b.alloc_mem(15)
    source, _ = filled(a)
    with pytest.raises(PoolExhausted):
        a.transfer_with_insert(a.connect(b.info.endpoint), TOKENS, source)
    assert b.match(TOKENS).num_tokens == 0
    assert num_reserved(b) == 15


def test_blocks_given_back_before_the_transfer_are_refused_by_the_sender(a: MemPool, b: MemPool) -> None:
    source, _ = filled(a)
    a.free_mem(source)
    with pytest.raises(InvalidBlocks, match="cannot be read"):
        a.transfer(a.connect(b.info.endpoint), source)


@pytest.mark.parametrize(
    "change",
    [
        {"dram_bytes": 0},
        {"dram_bytes": 1},
        {"dram_bytes": -4096},
        {"block_bytes": 0},
        {"dram_bytes": 1 << 60},
        {"block_size": 0},
    ],
)
def test_sizes_that_make_no_pool_are_a_config_error(make_pool: MakePool, change: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        make_pool("wrong", **change)
