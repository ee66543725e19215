"""A pool with a disk: DRAM spills onto it, requests get it back, restarts find it, and its faults are misses."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memserve.config import DiskPlace, Watermarks
from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, InvalidBlocks, StorageFailed
from memserve.core.ids import block_tier
from memserve.instance.mempool import MemPool
from memserve.wire.messages import DiskStats
from tests.instance.conftest import BLOCK_BYTES, CLUSTER, MakePool, eventually
from tests.instance.contents import PROMPT_BLOCKS, contents, prompt

SLOT_BYTES = BLOCK_BYTES + 4096
MakeDiskPool = Callable[..., MemPool]


@pytest.fixture
def make_disk_pool(make_pool: MakePool, tmp_path: Path) -> MakeDiskPool:
    """DRAM for three prompts, disk for more."""

    def make(*, disk_blocks: int = 64, **changes: object) -> MemPool:
        place = DiskPlace(folder=str(tmp_path), size_bytes=4096 + disk_blocks * SLOT_BYTES)
        return make_pool("a", **{"dram_bytes": 3 * PROMPT_BLOCKS * BLOCK_BYTES, "disk": place, **changes})

    return make


def hold(pool: MemPool, number: int) -> None:
    """Cache one prompt with its right contents."""
    blocks = pool.alloc_mem(PROMPT_BLOCKS)
    pool.write(blocks, contents(number))
    pool.insert(prompt(number), blocks)


def tiers(pool: MemPool, number: int) -> list[Tier]:
    with pool.match(prompt(number)) as match:
        return list(match.tiers)


def is_whole(pool: MemPool, number: int) -> bool:
    with pool.match(prompt(number)) as match:
        return pool.read(match.addresses) == contents(number)


def promote(pool: MemPool, number: int) -> int:
    tokens = b"".join(token.to_bytes(4, "little") for token in prompt(number))
    return pool.tiers.promote(tokens, namespace=b"", deadline_s=10).result()


def counts(pool: MemPool) -> DiskStats:
    found = pool.stats().disk
    assert found is not None
    return found


def spill(pool: MemPool, num_prompts: int) -> None:
    """Cache prompts one after the other; each waits until DRAM has room for it again."""
    for number in range(num_prompts):
        eventually(lambda: pool.stats().tiers[0].num_free >= PROMPT_BLOCKS)
        hold(pool, number)


def test_what_dram_has_no_room_for_goes_to_disk_and_nothing_is_lost(make_disk_pool: MakeDiskPool) -> None:
    pool = make_disk_pool(marks=Watermarks(low=0.5, high=0.6))
    spill(pool, 6)
    assert all(is_whole(pool, number) for number in range(6))
    assert tiers(pool, 0) == [Tier.DISK] * PROMPT_BLOCKS, "what was used longest ago goes first"
    assert counts(pool).num_demoted >= 3 * PROMPT_BLOCKS
    pool.local.check()


def test_demotion_stops_at_the_low_mark(make_disk_pool: MakeDiskPool) -> None:
    pool = make_disk_pool(marks=Watermarks(low=0.25, high=0.9))
    spill(pool, 3)
    eventually(lambda: counts(pool).num_demoted == 18)
    assert [stats.num_cached for stats in pool.stats().tiers] == [6, 18]


def test_a_prompt_on_disk_is_promoted_and_reads_as_it_was_written(make_disk_pool: MakeDiskPool) -> None:
    pool = make_disk_pool()
    hold(pool, 1)
    pool.swap_out(PROMPT_BLOCKS, source=Tier.DRAM, target=Tier.DISK)
    assert promote(pool, 1) == len(prompt(1))
    assert tiers(pool, 1) == [Tier.DRAM] * PROMPT_BLOCKS
    assert is_whole(pool, 1)
    assert promote(pool, 1) == 0, "nothing of it is on disk any more"


def test_a_promotion_makes_room_by_demoting_and_loses_nothing(make_disk_pool: MakeDiskPool) -> None:
    pool = make_disk_pool(marks=Watermarks(low=0.98, high=0.99))
    hold(pool, 0)
    pool.swap_out(PROMPT_BLOCKS, source=Tier.DRAM, target=Tier.DISK)
    for number in range(1, 4):
        hold(pool, number)
    assert promote(pool, 0) == len(prompt(0))
    assert all(is_whole(pool, number) for number in range(4))
    assert tiers(pool, 1).count(Tier.DISK) == PROMPT_BLOCKS


def test_swapping_in_by_address_gives_the_new_places(make_disk_pool: MakeDiskPool) -> None:
    pool = make_disk_pool()
    hold(pool, 1)
    assert pool.swap_out(5, source=Tier.DRAM, target=Tier.DISK) == 5
    with pool.match(prompt(1)) as match:
        cold = [block for block in match.addresses.blocks if block_tier(block) is Tier.DISK]
    moved = pool.swap_in(
        type(match.addresses)(instance="a", incarnation=match.addresses.incarnation, blocks=cold), target=Tier.DRAM
    )
    assert [block_tier(block) for block in moved.blocks] == [Tier.DRAM] * 5
    assert is_whole(pool, 1)


def test_blocks_on_disk_are_allocated_written_and_read_but_not_mapped(make_disk_pool: MakeDiskPool) -> None:
    pool = make_disk_pool()
    blocks = pool.alloc_mem(PROMPT_BLOCKS, tier=Tier.DISK)
    pool.write(blocks, contents(3))
    assert pool.read(blocks) == contents(3)
    with pytest.raises(InvalidBlocks, match="swap it in"):
        pool.view(blocks.blocks[0])


def damage(folder: Path, block: int) -> None:
    """Change a byte of one block in the file behind the pool's back."""
    path = folder / "a.kv"
    with path.open("r+b") as file:
        file.seek(4096 + block * SLOT_BYTES + 4096 + 17)
        was = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([was[0] ^ 1]))


def test_a_block_that_cannot_be_read_is_a_miss_that_is_counted(make_disk_pool: MakeDiskPool, tmp_path: Path) -> None:
    pool = make_disk_pool()
    hold(pool, 1)
    pool.swap_out(PROMPT_BLOCKS, source=Tier.DRAM, target=Tier.DISK)
    with pool.match(prompt(1)) as match:
        damage(tmp_path, match.addresses.blocks[5] & 0xFFFFFFFF)
        with pytest.raises(StorageFailed, match="checksum"):
            pool.read(match.addresses)
    assert promote(pool, 1) == 7 * len(prompt(1)) // PROMPT_BLOCKS, "all but the one that is lost"
    assert tiers(pool, 1) == [Tier.DRAM] * 5
    assert counts(pool).num_read_errors == 1
    pool.local.check()


def test_a_disk_that_takes_nothing_leaves_blocks_in_dram_until_their_room_is_needed(
    make_disk_pool: MakeDiskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_disk_pool(marks=Watermarks(low=0.2, high=0.3))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        hold(pool, 1)
        eventually(lambda: counts(pool).num_write_errors > 0)
        assert tiers(pool, 1) == [Tier.DRAM] * PROMPT_BLOCKS
        for number in range(2, 6):
            hold(pool, number)
        assert tiers(pool, 1) == []
        assert is_whole(pool, 5)


def test_the_coldest_on_a_full_disk_give_way(make_disk_pool: MakeDiskPool) -> None:
    pool = make_disk_pool(disk_blocks=PROMPT_BLOCKS, marks=Watermarks(low=0.3, high=0.4))
    spill(pool, 5)
    eventually(lambda: pool.stats().tiers[0].num_free >= 2 * PROMPT_BLOCKS)
    assert is_whole(pool, 4)
    assert tiers(pool, 0) == []
    pool.local.check()


def test_the_next_pool_of_this_name_finds_what_was_held(make_disk_pool: MakeDiskPool) -> None:
    first = make_disk_pool(marks=Watermarks(low=0.5, high=0.6))
    spill(first, 5)
    first.close()
    second = make_disk_pool()
    assert all(is_whole(second, number) for number in range(5)), "DRAM was saved on close"
    assert counts(second).num_restored == 5 * PROMPT_BLOCKS
    assert promote(second, 0) == len(prompt(0))


def test_what_is_wanted_most_is_saved_on_close_where_not_all_has_room(make_disk_pool: MakeDiskPool) -> None:
    first = make_disk_pool(disk_blocks=2 * PROMPT_BLOCKS, marks=Watermarks(low=0.98, high=0.99))
    hold(first, 0)
    first.swap_out(PROMPT_BLOCKS, source=Tier.DRAM, target=Tier.DISK)
    for number in (1, 2):
        hold(first, number)
    assert is_whole(first, 1)
    first.close()
    second = make_disk_pool(disk_blocks=2 * PROMPT_BLOCKS)
    assert is_whole(second, 1)
    assert is_whole(second, 2)
    assert tiers(second, 0) == []


def test_what_was_deleted_is_not_found_by_the_next_pool(make_disk_pool: MakeDiskPool) -> None:
    first = make_disk_pool()
    hold(first, 1)
    hold(first, 2)
    first.swap_out(2 * PROMPT_BLOCKS, source=Tier.DRAM, target=Tier.DISK)
    first.delete(prompt(1)[: len(prompt(1)) // 2])
    first.close()
    second = make_disk_pool()
    assert len(tiers(second, 1)) == PROMPT_BLOCKS // 2 - 1
    assert is_whole(second, 2)


def test_a_pool_of_another_model_finds_nothing(make_disk_pool: MakeDiskPool, make_pool: MakePool) -> None:
    first = make_disk_pool()
    hold(first, 1)
    first.close()
    other = make_disk_pool(block_size=8)
    assert counts(other).num_restored == 0


def test_two_pools_cannot_share_a_file(make_disk_pool: MakeDiskPool) -> None:
    make_disk_pool()
    with pytest.raises(ConfigError, match="in use by another process"):
        make_disk_pool()


KILLED = f"""
import sys, itertools
from memserve.config import DiskPlace, Watermarks
from memserve.instance.mempool import MemPool
from tests.instance.conftest import BLOCK_BYTES, BLOCK_SIZE
from tests.instance.contents import PROMPT_BLOCKS, contents, prompt
pool = MemPool(instance="a", block_size=BLOCK_SIZE, block_bytes=BLOCK_BYTES, cluster={CLUSTER!r},
               dram_bytes=3 * PROMPT_BLOCKS * BLOCK_BYTES, marks=Watermarks(low=0.1, high=0.2),
               disk=DiskPlace(folder=sys.argv[1], size_bytes=4096 + 40 * {SLOT_BYTES}))
for number in itertools.cycle(range(200)):
    blocks = pool.alloc_mem(PROMPT_BLOCKS)
    pool.write(blocks, contents(number))
    pool.insert(prompt(number), blocks)
    if pool.stats().disk.num_demoted > 100:
        print("demoting", flush=True)
"""


def test_a_pool_that_is_killed_while_it_demotes_leaves_only_right_bytes(
    make_disk_pool: MakeDiskPool, tmp_path: Path
) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    pool = make_disk_pool(disk_blocks=40)
    found = [number for number in range(200) if tiers(pool, number)]
    assert sum(len(tiers(pool, number)) for number in found) == counts(pool).num_restored > 0
    for number in found:
        with pool.match(prompt(number)) as match:
            assert pool.read(match.addresses) == contents(number)[: len(match.addresses.blocks) * BLOCK_BYTES]
