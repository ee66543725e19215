"""Two pools that share by whatever path there is: what MemPool promises must not depend on it."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from memserve.config import Network
from memserve.core.enums import DataPath, Tier
from memserve.core.errors import ConfigError, MemserveError, SecretRefused, TransferFailed
from memserve.gateway.pool_control import RpcPools
from memserve.instance.mempool import MemPool
from memserve.security.secret import ClusterSecret
from memserve.security.tls_files import TlsFiles
from memserve.wire.messages import BlockList, PeerInfo
from tests.instance.conftest import BLOCK_BYTES, MakePool
from tests.transport.certificates import made_tls
from tests.transport.paths import PATHS
from tests.transport.proxy import Direction, Fault, FaultyProxy, Kind

NUM_BLOCKS = 3
TOKENS = list(range(4 * NUM_BLOCKS))


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> DataPath:
    return request.param


@pytest.fixture
def near(make_pool: MakePool, path: DataPath) -> MemPool:
    return make_pool("near", paths=(path,), hbm_bytes=8 * BLOCK_BYTES)


@pytest.fixture
def far(make_pool: MakePool, path: DataPath) -> MemPool:
    return make_pool("far", paths=(path,), hbm_bytes=8 * BLOCK_BYTES)


def filled(pool: MemPool, *, tier: Tier = Tier.DRAM) -> tuple[BlockList, bytes]:
    addresses = pool.alloc_mem(NUM_BLOCKS, tier=tier)
    data = os.urandom(NUM_BLOCKS * BLOCK_BYTES)
    pool.write(addresses, data)
    return addresses, data


def is_idle(pool: MemPool) -> bool:
    """Nothing is held for anybody, nothing open, the books balance."""
    pool.local.check()
    stats = pool.stats()
    return (sum(t.num_reserved for t in stats.tiers), stats.num_leases, stats.num_transfers_open) == (0, 0, 0)


def test_each_pair_takes_the_path_that_both_have(near: MemPool, far: MemPool, path: DataPath) -> None:
    assert near.path_to(far.info) is path
    assert far.path_to(near.info) is path


@pytest.mark.parametrize("tier", [Tier.DRAM, Tier.HBM])
def test_blocks_of_any_tier_arrive_and_are_indexed_in_one_round_trip(near: MemPool, far: MemPool, tier: Tier) -> None:
    source, data = filled(near, tier=tier)
    peer = near.connect(far.info.endpoint)
    sent = near.transfer_with_insert(peer, TOKENS, source, private=b"note")
    assert near.num_control_calls(peer) == 1
    assert far.read(sent) == data
    with far.match(TOKENS) as match:
        assert match.addresses == sent
    received = far.take_received(deadline_s=5)
    assert received is not None
    assert (received.addresses, received.private) == (sent, b"note")
    near.free_mem(source)
    assert is_idle(near)
    assert is_idle(far)


@pytest.mark.parametrize("tier", [Tier.DRAM, Tier.HBM])
def test_a_destination_that_was_allocated_before_is_filled(near: MemPool, far: MemPool, tier: Tier) -> None:
    source, data = filled(near)
    peer = near.connect(far.info.endpoint)
    destination = near.alloc_mem(NUM_BLOCKS, on=peer, tier=tier)
    assert near.transfer(peer, source, destination=destination) == destination
    assert far.read(destination) == data
    near.free_mem(destination)
    near.free_mem(source)
    assert is_idle(far)


def test_both_directions_at_once(near: MemPool, far: MemPool) -> None:
    there, back = near.connect(far.info.endpoint), far.connect(near.info.endpoint)
    source, data = filled(near)
    arrived = near.transfer(there, source)
    returned = far.transfer(back, arrived)
    assert near.read(returned) == data


def test_memory_that_cannot_be_mapped_is_reached_over_the_network(a: MemPool, b: MemPool) -> None:
    """As between hosts: the sender's shared memory is not this host's."""
    assert a.path_to(b.info) is DataPath.SHM
    assert a.info.arena is not None
    elsewhere = msgspec.structs.replace(a.info.arena, host="another host")
    a.info = msgspec.structs.replace(a.info, arena=elsewhere)
    assert b.path_to(a.info) is DataPath.TCP
    source, data = filled(a)
    assert b.read(a.transfer_with_insert(a.connect(b.info.endpoint), TOKENS, source)) == data


def test_an_arena_that_is_not_there_is_reached_over_the_network(a: MemPool, b: MemPool) -> None:
    """As between containers of one host that do not share /dev/shm."""
    assert a.info.arena is not None
    hidden = msgspec.structs.replace(a.info.arena, path=f"{a.info.arena.path}-hidden")
    a.info = msgspec.structs.replace(a.info, arena=hidden)
    source, data = filled(a)
    assert b.read(a.transfer_with_insert(a.connect(b.info.endpoint), TOKENS, source)) == data


def test_pools_without_a_path_in_common_say_so(make_pool: MakePool) -> None:
    mapped, networked = make_pool("m", paths=(DataPath.SHM,)), make_pool("n", paths=(DataPath.TCP,))
    source, _ = filled(mapped)
    peer = mapped.connect(networked.info.endpoint)
    assert mapped.path_to(peer) is None
    with pytest.raises(TransferFailed, match="allow a path that both have"):
        mapped.transfer_with_insert(peer, TOKENS, source)
    mapped.free_mem(source)
    assert is_idle(mapped)
    assert is_idle(networked)


@pytest.mark.parametrize("paths", [(), (DataPath.TCP, DataPath.TCP)])
def test_paths_that_make_no_choice_are_refused(make_pool: MakePool, paths: tuple[DataPath, ...]) -> None:
    with pytest.raises(ConfigError, match="paths"):
        make_pool("none", paths=paths)


@pytest.fixture
def behind_proxy(make_pool: MakePool, request: pytest.FixtureRequest) -> Iterator[tuple[MemPool, MemPool, FaultyProxy]]:
    """A sender whose data server is reached through a faulty network, and a receiver."""
    sender, receiver = make_pool("sender", paths=(DataPath.TCP,)), make_pool("receiver", paths=(DataPath.TCP,))
    proxy = FaultyProxy(sender.info.data, request.param)
    sender.info = msgspec.structs.replace(sender.info, data=proxy.endpoint)
    yield sender, receiver, proxy
    proxy.close()


@pytest.mark.parametrize(
    "behind_proxy",
    [
        *(Fault(Kind.CUT, Direction.TO_CLIENT, after) for after in (0, 10, BLOCK_BYTES, 2 * BLOCK_BYTES + 99)),
        *(Fault(Kind.FLIP, Direction.TO_CLIENT, after) for after in (0, 100, 2 * BLOCK_BYTES)),
        Fault(Kind.CUT, Direction.TO_SERVER, 10),
    ],
    ids=str,
    indirect=True,
)
def test_a_transfer_over_a_broken_network_leaves_nothing_and_a_later_one_succeeds(
    behind_proxy: tuple[MemPool, MemPool, FaultyProxy],
) -> None:
    sender, receiver, proxy = behind_proxy
    source, data = filled(sender)
    peer: PeerInfo = sender.connect(receiver.info.endpoint)
    with pytest.raises(MemserveError):
        sender.transfer_with_insert(peer, TOKENS, source)
    assert receiver.match(TOKENS).num_tokens == 0
    assert is_idle(receiver)
    proxy.fault = Fault(Kind.NONE)
    proxy.cut_all()
    assert receiver.read(sender.transfer_with_insert(peer, TOKENS, source)) == data
    sender.free_mem(source)
    assert is_idle(sender)


@pytest.mark.parametrize("behind_proxy", [Fault(Kind.STALL, Direction.TO_CLIENT, BLOCK_BYTES)], ids=str, indirect=True)
def test_a_pool_closes_at_once_though_a_peer_has_stopped_half_way(
    behind_proxy: tuple[MemPool, MemPool, FaultyProxy],
) -> None:
    sender, receiver, proxy = behind_proxy
    source, _ = filled(sender)
    peer = sender.connect(receiver.info.endpoint)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(sender.transfer_with_insert, peer, TOKENS, source)
        assert proxy.stalled.wait(10)
        begin = time.monotonic()
        receiver.close()
        assert time.monotonic() - begin < 5
        sender.close()
        with pytest.raises(MemserveError):
            waiting.result(timeout=10)


async def test_a_gateway_is_told_the_ways_to_each_peer(near: MemPool, far: MemPool, path: DataPath) -> None:
    pools = RpcPools()
    hidden = msgspec.structs.replace(far.info, arena=None, data="", nixl=False)
    found = await pools.paths(near.info, others=(far.info, hidden))
    await pools.close()
    assert [(p.peer, p.path) for p in found] == [("far", path), ("far", None)]


def test_pools_with_tls_share_and_are_reached_where_they_say(make_pool: MakePool, tls: TlsFiles) -> None:
    network = Network(bind="0.0.0.0", advertise="127.0.0.1", tls=tls, secret=ClusterSecret(b"s" * 32))
    near, far = (make_pool(name, paths=(DataPath.TCP,), network=network) for name in ("near", "far"))
    assert far.info.endpoint.startswith("tcp://127.0.0.1:")
    assert far.info.data.startswith("tls://127.0.0.1:")
    source, data = filled(near)
    assert far.read(near.transfer_with_insert(near.connect(far.info.endpoint), TOKENS, source)) == data


def test_pools_that_share_a_secret_share_over_tls_without_any_certificate(make_pool: MakePool) -> None:
    network = Network(secret=ClusterSecret(b"s" * 32))
    near, far = (make_pool(name, paths=(DataPath.TCP,), network=network) for name in ("near", "far"))
    assert far.info.data.startswith("tls://127.0.0.1:")
    source, data = filled(near)
    assert far.read(near.transfer_with_insert(near.connect(far.info.endpoint), TOKENS, source)) == data
    stranger = make_pool("stranger", network=Network(secret=ClusterSecret(b"t" * 32)))
    with pytest.raises(SecretRefused, match="does not take the cluster secret"):
        stranger.connect(far.info.endpoint)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return made_tls(tmp_path_factory.mktemp("tls"))
