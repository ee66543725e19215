"""What every Storage keeps, the shared one as its owner and as a peer sees it."""

import time
from collections.abc import Iterator

import pytest

from memserve.core.errors import ConfigError, InvalidBlocks
from memserve.core.ids import Incarnation, InstanceId
from memserve.storage.base import Storage
from memserve.storage.private_memory import PrivateMemory
from memserve.storage.shared_memory import SharedMemory, attach


@pytest.fixture(params=["private", "shared", "attached"])
def storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    if request.param == "private":
        made: Storage = PrivateMemory(num_blocks=4, block_bytes=100)
        yield made
        made.close()
        return
    owner = SharedMemory(
        cluster="contract",
        instance=InstanceId("a"),
        incarnation=Incarnation(time.time_ns()),
        num_blocks=4,
        block_bytes=100,
    )
    made = owner if request.param == "shared" else attach(owner.ref)
    yield made
    made.close()
    owner.close()


def test_a_fresh_block_is_zero_and_keeps_what_is_written(storage: Storage) -> None:
    assert bytes(storage.view(3)) == bytes(100)
    storage.view(3)[:] = b"x" * 100
    assert bytes(storage.view(3)) == b"x" * 100
    assert bytes(storage.view(2)) == bytes(100)


@pytest.mark.parametrize("index", [-1, 4, 2**40])
def test_a_block_that_does_not_exist_has_no_view(storage: Storage, index: int) -> None:
    with pytest.raises(InvalidBlocks, match="0 to 3"):
        storage.view(index)


def test_close_is_idempotent_and_ends_views(storage: Storage) -> None:
    storage.close()
    storage.close()
    with pytest.raises(InvalidBlocks, match="closed"):
        storage.view(0)


def test_a_view_outlives_its_storage(storage: Storage) -> None:
    view = storage.view(1)
    view[:] = b"y" * 100
    storage.close()
    assert bytes(view) == b"y" * 100


@pytest.mark.parametrize(("num_blocks", "block_bytes"), [(0, 1), (1, 0), (-1, 8)])
def test_a_tier_without_room_for_a_block_is_a_config_error(num_blocks: int, block_bytes: int) -> None:
    with pytest.raises(ConfigError, match="at least one block"):
        PrivateMemory(num_blocks=num_blocks, block_bytes=block_bytes)
