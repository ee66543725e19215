"""An engine whose DRAM tier is too small gets back from disk what it computed, or computes it again."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from memserve.config import DiskPlace
from memserve.core.enums import CachingMode, Phase, Tier, TransferMode
from memserve.core.ids import RequestId
from memserve.wire.messages import PeerInfo, RequestParams
from tests.engines.mini_engine import BLOCK_SIZE, MiniEngine

NUM_BLOCKS = 4
PROMPT = [Random(5).randrange(50_000) for _ in range(NUM_BLOCKS * BLOCK_SIZE + 7)]


def params(request: str, phase: Phase = Phase.WHOLE, peer: PeerInfo | None = None) -> RequestParams:
    return RequestParams(request=RequestId(request), phase=phase, peer=peer)


def engine(name: str, folder: Path) -> MiniEngine:
    return MiniEngine(
        name,
        caching=CachingMode.RETURN,
        transfer=TransferMode.BY_REQUEST,
        num_pool_blocks=16,
        disk=DiskPlace(folder=str(folder), size_bytes=8 << 20),
    )


def to_disk(of: MiniEngine, num_blocks: int) -> None:
    """The least wanted blocks, from the end of the prompt on."""
    assert of.pool.swap_out(num_blocks, source=Tier.DRAM, target=Tier.DISK) == num_blocks


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[MiniEngine]:
    """It has computed the prompt."""
    made = engine("a", tmp_path)
    made.run("first", params("first"), PROMPT)
    yield made
    made.close()


def test_what_is_on_disk_is_loaded_with_the_same_bytes(cold: MiniEngine) -> None:
    cold.admit("warm", params("warm"), PROMPT)
    before = cold.kv("warm", NUM_BLOCKS * BLOCK_SIZE)
    cold.compute("warm", (0,))
    cold.finish("warm", (0,))
    cold.step_until(lambda: "warm" not in cold.blocks)
    to_disk(cold, NUM_BLOCKS)
    assert cold.admit("again", params("again"), PROMPT) == NUM_BLOCKS * BLOCK_SIZE
    assert cold.kv("again", NUM_BLOCKS * BLOCK_SIZE) == before


def test_the_report_tells_the_tiers_apart_and_adds_up(cold: MiniEngine) -> None:
    to_disk(cold, 3)
    cold.run("again", params("again"), PROMPT)
    report = cold.reported[-1]
    assert (report.dram_tokens, report.disk_tokens, report.computed_tokens) == (BLOCK_SIZE, 3 * BLOCK_SIZE, 7)
    assert report.dram_tokens + report.disk_tokens + report.computed_tokens == report.prompt_tokens == len(PROMPT)
    cold.run("warm", params("warm"), PROMPT)
    assert cold.reported[-1].disk_tokens == 0
    assert cold.reported[-1].dram_tokens == NUM_BLOCKS * BLOCK_SIZE
    assert cold.is_idle()


def test_the_scheduler_does_not_wait_for_the_disk(cold: MiniEngine) -> None:
    to_disk(cold, NUM_BLOCKS)
    cold.scheduler.arrive(key="again", params=params("again"), tokens=PROMPT, namespace=b"")
    assert cold.scheduler.match(key="again", tokens=lambda: PROMPT, num_local_tokens=0) is None


def test_what_the_engine_has_itself_is_not_read_from_disk(cold: MiniEngine) -> None:
    to_disk(cold, NUM_BLOCKS)
    cold.scheduler.arrive(key="again", params=params("again"), tokens=PROMPT, namespace=b"")
    local = NUM_BLOCKS * BLOCK_SIZE
    assert cold.scheduler.match(key="again", tokens=lambda: PROMPT, num_local_tokens=local) == 0


def test_a_damaged_file_costs_a_computation(cold: MiniEngine, tmp_path: Path) -> None:
    to_disk(cold, 2)
    path = tmp_path / "a.kv"
    path.write_bytes(bytes(path.stat().st_size))
    assert cold.admit("again", params("again"), PROMPT) == 2 * BLOCK_SIZE
    found = cold.pool.stats().disk
    assert found is not None
    assert (found.num_read_errors, found.num_promoted) == (2, 0)


def test_a_request_that_is_aborted_while_it_waits_for_the_disk_leaves_nothing(cold: MiniEngine) -> None:
    to_disk(cold, NUM_BLOCKS)
    cold.scheduler.arrive(key="left", params=params("left"), tokens=PROMPT, namespace=b"")
    assert cold.scheduler.match(key="left", tokens=lambda: PROMPT, num_local_tokens=0) is None
    cold.abort("left")
    cold.step_until(cold.is_idle)


def test_a_receiver_that_holds_the_prefix_on_disk_only_is_sent_it_again(tmp_path: Path) -> None:
    prefill, decode = engine("p", tmp_path), engine("d", tmp_path)
    for turn in ("one", "two"):
        prefill.run(f"{turn}-p", params(turn, Phase.PREFILL, decode.pool.info), PROMPT)
        assert decode.admit(f"{turn}-d", params(turn, Phase.DECODE, prefill.pool.info), PROMPT) == len(PROMPT)
        whole = decode.kv(f"{turn}-d", len(PROMPT))
        if turn == "one":
            first = whole
        decode.compute(f"{turn}-d", (0, 0))
        decode.finish(f"{turn}-d", (0, 0))
        decode.step_until(decode.is_idle)
        prefill.step_until(prefill.is_idle)
        to_disk(decode, 3)
    assert whole == first
    assert [moved.num_blocks for moved in prefill.reported[-1].moved] == [NUM_BLOCKS]
    decode.close()
    prefill.close()
