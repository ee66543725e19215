"""What a memory instance needs to know before it can join, and what it is called."""

import pytest

from memserve.config import DiskPlace
from memserve.core.errors import ConfigError
from memserve.instance.memory_server import MemoryServer, default_name
from memserve.wire.messages import WelcomeReply
from tests.instance.conftest import BLOCK_BYTES, MakePool


def test_a_cluster_without_instances_cannot_be_joined_yet() -> None:
    with pytest.raises(ConfigError, match=r'no instance has joined the cluster "c" yet.*start one first'):
        MemoryServer(name="m", into=WelcomeReply(cluster="c", config=b"{}"), dram_bytes=BLOCK_BYTES)


def test_it_holds_blocks_of_the_clusters_shape_only(make_pool: MakePool) -> None:
    identity = make_pool("a").info.identity
    into = WelcomeReply(cluster="memoryservertest", config=b"{}", identity=identity)
    with MemoryServer(name="m", into=into, dram_bytes=5 * BLOCK_BYTES) as server:
        assert server.pool.info.identity == identity
        assert server.pool.stats().tiers[0].num_blocks == 5


def test_nothing_is_handed_on_before_it_has_joined(make_pool: MakePool) -> None:
    into = WelcomeReply(cluster="memoryservertest", config=b"{}", identity=make_pool("a").info.identity)
    with (
        MemoryServer(name="m", into=into, dram_bytes=BLOCK_BYTES) as server,
        pytest.raises(ConfigError, match="joined no cluster"),
    ):
        server.hand_on()


def test_with_a_disk_its_name_is_that_of_the_folder_and_otherwise_of_the_process() -> None:
    one, two = (DiskPlace(folder=folder, size_bytes=1) for folder in ("/one", "/two"))
    assert default_name(one) == default_name(one) != default_name(two)
    assert default_name(None) not in (default_name(one), default_name(two))
