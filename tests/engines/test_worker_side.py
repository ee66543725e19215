"""Copies between paged tensors laid out as vLLM lays them out, and real arenas in shared memory."""

from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest
from vllm.v1.kv_cache_layout import KVCacheLayout

from memserve.core.clock import SystemClock
from memserve.core.enums import PiecePlan
from memserve.core.errors import TransferFailed
from memserve.core.ids import Incarnation, InstanceId, TransferId
from memserve.engines.vllm.jobs import Commit, CopyJob, JobKind, Pace, StepPlan
from memserve.engines.vllm.worker_side import WorkerSide
from memserve.storage.shared_memory import SharedMemory, attach
from memserve.transport.tcp import TcpTransport
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import CommitRequest, PeerInfo
from tests.engines.paged import BLOCK_BYTES, LAYERS, NUM_BLOCKS, paged_memory


class Commits:
    """A receiver that records commits and answers as told."""

    def __init__(self) -> None:
        self.seen: list[TransferId] = []
        self.error: Exception | None = None

    def commit(self, commit: Commit) -> Future[None]:
        self.seen.append(commit.request.transfer)
        reply: Future[None] = Future()
        if self.error is None:
            reply.set_result(None)
        else:
            reply.set_exception(self.error)
        return reply


@pytest.fixture
def arena(request: pytest.FixtureRequest) -> Iterator[SharedMemory]:
    made = SharedMemory(
        cluster="test",
        instance=InstanceId("worker-side"),
        incarnation=Incarnation(1),
        num_blocks=8,
        block_bytes=BLOCK_BYTES,
    )
    yield made
    made.close()


class Rig:
    """One rank with its engine memory."""

    def __init__(
        self,
        rank: int,
        *,
        num_ranks: int = 2,
        layout: KVCacheLayout = KVCacheLayout.LBHNC,
        plan: PiecePlan = PiecePlan.AGGREGATED,
        **shape: int,
    ) -> None:
        self.memory = paged_memory(rank=rank, num_ranks=num_ranks, layout=layout, **shape)
        self.commits = Commits()
        self.side = WorkerSide(
            memory=self.memory,
            attach=attach,
            commit=self.commits.commit,
            network=TcpTransport(clock=SystemClock()),
            rank=rank,
            clock=SystemClock(),
            plan=plan,
        )

    def run(self, *jobs: CopyJob) -> None:
        self.side.begin_step(StepPlan(jobs=jobs))
        self.side.end_step()
        self.side.begin_step(StepPlan(settle_first=True))

    def bytes_of(self, block: int) -> bytes:
        return b"".join(bytes(p[:, block].contiguous().view(-1).tolist()) for p in self.memory.pages)


@pytest.fixture(params=[KVCacheLayout.LBHNC, KVCacheLayout.BLHNC], ids=lambda layout: layout.name)
def rigs(request: pytest.FixtureRequest) -> Iterator[list[Rig]]:
    made = [Rig(rank, layout=request.param) for rank in range(2)]
    yield made
    for rig in made:
        rig.side.close()


def job(number: int, kind: JobKind, arena: SharedMemory, pairs: dict[int, int], **more: object) -> CopyJob:
    return CopyJob(
        job=number,
        kind=kind,
        request="r",
        engine_blocks=tuple(pairs),
        arena_blocks=tuple(pairs.values()),
        arena=arena.ref,
        **more,
    )


def commit() -> Commit:
    identity = KvIdentity(
        model="m", dtype="d", engine="e", backend="b", block_size=32, block_bytes=1, num_layers=len(LAYERS)
    )
    peer = PeerInfo(
        instance=InstanceId("d"), incarnation=Incarnation(1), endpoint="tcp://127.0.0.1:1", identity=identity
    )
    return Commit(peer=peer, request=CommitRequest(transfer=TransferId("t"), num_blocks=1, insert=True))


def test_what_is_saved_by_two_ranks_is_loaded_back_into_other_blocks(rigs: list[Rig], arena: SharedMemory) -> None:
    before = [[rig.bytes_of(b) for b in range(NUM_BLOCKS)] for rig in rigs]
    for rig in rigs:
        rig.run(job(1, JobKind.SAVE, arena, {1: 6, 2: 0}))
    layers = [np.frombuffer(kv[1], np.uint8).reshape(len(LAYERS), -1) for kv in before]
    assert bytes(arena.view(6)) == np.concatenate(layers, axis=1).tobytes()
    for rig in rigs:
        rig.run(job(2, JobKind.LOAD, arena, {4: 6, 3: 0}))
    for rig, old in zip(rigs, before, strict=True):
        assert [rig.bytes_of(b) for b in range(NUM_BLOCKS)] == [old[0], old[1], old[2], old[2], old[1], *old[5:]]


def test_by_layer_and_at_once_leave_the_same_bytes(rigs: list[Rig], arena: SharedMemory) -> None:
    rig = rigs[0]
    rig.run(job(1, JobKind.SEND, arena, {1: 0}))
    rig.run(job(2, JobKind.SEND, arena, {1: 1}, pace=Pace.BY_LAYER))
    assert bytes(arena.view(0)) == bytes(arena.view(1))
    assert {n: r.num_calls for n, r in rig.side.take_results().items()} == {1: 1, 2: len(LAYERS)}


def test_a_discrete_plan_copies_each_layer_of_each_block_and_leaves_the_same_bytes(arena: SharedMemory) -> None:
    rig = Rig(0, plan=PiecePlan.DISCRETE)
    rig.run(job(1, JobKind.SAVE, arena, {1: 0, 2: 1}), job(2, JobKind.SEND, arena, {1: 2, 2: 3}))
    assert [bytes(arena.view(block)) for block in (2, 3)] == [bytes(arena.view(block)) for block in (0, 1)]
    assert any(arena.view(2))
    assert {n: r.num_calls for n, r in rig.side.take_results().items()} == {1: 1, 2: 2 * len(LAYERS)}
    rig.side.close()


def test_a_layer_leaves_when_it_is_computed_and_not_before(rigs: list[Rig], arena: SharedMemory) -> None:
    side, memory = rigs[0].side, rigs[0].memory
    side.begin_step(StepPlan(jobs=(job(1, JobKind.SEND, arena, {1: 0}, pace=Pace.BY_LAYER),)))
    side.layer_computed(memory.layers[0])
    memory.pages[-1][-1, 1].fill_(77)  # the last layer is written after the first one has left
    side.end_step()
    side.begin_step(StepPlan(settle_first=True))
    last = np.frombuffer(arena.view(0), np.uint8).reshape(len(LAYERS), -1)[-1, : memory.page_bytes]
    assert set(last.tolist()) == {77}


def test_the_commit_goes_out_once_and_only_after_the_last_piece(rigs: list[Rig], arena: SharedMemory) -> None:
    rig = rigs[0]
    rig.run(job(1, JobKind.SEND, arena, {1: 0}, pace=Pace.BY_LAYER, commit=commit()))
    assert rig.commits.seen == [TransferId("t")]
    assert not rig.side.take_results()[1].failed


def test_a_commit_that_is_refused_fails_the_job(rigs: list[Rig], arena: SharedMemory) -> None:
    rigs[0].commits.error = TransferFailed("1 of 2 blocks")
    rigs[0].run(job(1, JobKind.SEND, arena, {1: 0}, commit=commit()))
    assert rigs[0].side.take_results()[1].failed


def test_a_load_from_an_arena_that_is_gone_reports_its_blocks_as_bad(rigs: list[Rig], arena: SharedMemory) -> None:
    lost = job(1, JobKind.LOAD, arena, {3: 0, 4: 1})
    arena.close()
    rigs[0].run(lost)
    assert rigs[0].side.take_bad_blocks() == {3, 4}
    assert rigs[0].side.take_finished() == (set(), {"r"})
    assert rigs[0].side.take_results()[1].failed


def test_of_ranks_with_the_same_head_one_writes_and_all_load(arena: SharedMemory) -> None:
    rigs = [Rig(rank, num_ranks=4, num_kv_heads=2) for rank in range(4)]
    shape = (len(LAYERS), 2, -1)
    half = SharedMemory(
        cluster="test",
        instance=InstanceId("replicas"),
        incarnation=Incarnation(1),
        num_blocks=1,
        block_bytes=BLOCK_BYTES // 2,
    )
    written = [np.frombuffer(rigs[rank].bytes_of(1), np.uint8).reshape(len(LAYERS), 1, -1) for rank in (0, 2)]
    for rig in rigs:
        rig.run(job(1, JobKind.SEND, half, {1: 0}, commit=commit()))
        assert rig.commits.seen == [TransferId("t")]
    assert bytes(half.view(0)) == np.concatenate(written, axis=1).tobytes()
    for rank, rig in enumerate(rigs):
        rig.run(job(2, JobKind.LOAD, half, {2: 0}))
        head = np.frombuffer(half.view(0), np.uint8).reshape(shape)[:, rank // 2]
        assert rig.bytes_of(2) == head.tobytes()
        rig.side.close()
    half.close()


def test_released_requests_are_told_to_vllm_once(rigs: list[Rig]) -> None:
    rigs[0].side.begin_step(StepPlan(released=("a", "b")))
    assert rigs[0].side.take_finished() == ({"a", "b"}, set())
    assert rigs[0].side.take_finished() == (set(), set())
