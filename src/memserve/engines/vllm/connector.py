"""MemServeConnector: vLLM's KVConnectorBase_V1 on one side, MemPool on the other.

Thin: translates vLLM's calls and objects for SchedulerSide (in the engine's scheduler process, with
the pool and its agent) or WorkerSide (in each worker process, with the bytes). Usable alone:

    --kv-transfer-config '{"kv_connector": "MemServeConnector", "kv_role": "kv_both",
      "kv_connector_module_path": "memserve.engines.vllm.connector", "kv_load_failure_policy": "recompute"}'
"""

import logging
import os
from typing import Any
from uuid import uuid4

import msgspec
import torch
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, KVConnectorRole
from vllm.forward_context import ForwardContext
from vllm.v1.attention.backend import AttentionMetadata
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.outputs import KVConnectorOutput
from vllm.v1.request import Request, RequestStatus

from memserve.config import ConnectorConfig, Network, convert, parse_disk
from memserve.core.clock import SystemClock
from memserve.core.enums import SERVING_ROLES, Phase
from memserve.core.errors import ConfigError
from memserve.core.ids import RequestId
from memserve.core.notation import parse_size
from memserve.engines.vllm.committer import Committer
from memserve.engines.vllm.compat import (
    adopt_logging,
    kv_identity,
    model_layout,
    own_share,
    request_namespace,
    untested_version_warning,
    vllm_version,
)
from memserve.engines.vllm.jobs import JobsDone, StepPlan
from memserve.engines.vllm.layout import EngineMemory
from memserve.engines.vllm.scheduler_side import SchedulerSide
from memserve.engines.vllm.worker_side import WorkerSide
from memserve.instance.guarded import be_killed, tell_guard
from memserve.instance.mempool import MemPool
from memserve.security.exposure import check_plain_paths
from memserve.security.secret import read_secret
from memserve.storage.shared_memory import attach
from memserve.transport.room_writers import RoomWriters
from memserve.wire.messages import RequestParams

logger = logging.getLogger(__name__)

PARAMS_KEY = "memserve"
"""Our part of vLLM's kv_transfer_params."""

_CAN_PLAY = SERVING_ROLES
"""A request says which part it wants to be played, so the engine needs no restart for another role."""

_SERVED = {
    RequestStatus.FINISHED_STOPPED,
    RequestStatus.FINISHED_LENGTH_CAPPED,
    RequestStatus.FINISHED_REPETITION,
}


class MemServeConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """One object per process and role; vLLM makes it and calls it from one thread."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        adopt_logging()
        self._pool: MemPool | None = None
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        self._committer: Committer | None = None
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        self._config = convert(dict(extra), ConnectorConfig, "kv_connector_extra_config")
        self._network = _network(self._config)
        if role is KVConnectorRole.SCHEDULER:
            self._start_pool(self._config)

    def _start_pool(self, config: ConnectorConfig) -> None:
        if warning := untested_version_warning(vllm_version()):
            logger.warning(warning)
        config.marks.check("marks")
        identity = kv_identity(self._vllm_config, self._kv_cache_config)
        self._pool = MemPool(
            instance=config.instance or ("vllm" if config.disk else f"vllm-{os.getpid()}"),
            block_size=identity.block_size,
            block_bytes=identity.block_bytes,
            dram_bytes=parse_size(config.dram, "dram"),
            identity=identity,
            cluster=config.cluster,
            network=self._network,
            paths=config.paths,
            disk=parse_disk(config.disk, "disk"),
            marks=config.marks,
            keep=config.keep,
        )
        arena = self._pool.arena
        if arena is None:
            raise ConfigError(f'dram = "{config.dram}" leaves the pool without memory; give at least "64MiB"')
        self._scheduler = SchedulerSide(
            pool=self._pool,
            arena=arena,
            caching=config.caching,
            transfer=config.transfer,
            block_size=identity.block_size,
            num_ranks=self._vllm_config.parallel_config.world_size,
            clock=SystemClock(),
        )
        logger.info("memserve pool %s", msgspec.json.encode(self._pool.info).decode())
        if config.join:
            self._pool.membership.join(
                config.join,
                cluster=config.cluster,
                role=config.role,
                url=config.url,
                load=self._scheduler.load,
                can_play=_CAN_PLAY,
                dismissed=tell_guard,
                fenced=be_killed,
            )

    @property
    def requires_kv_delivery(self) -> bool:
        """Losing KV costs a recomputation, never an answer."""
        return False

    # ------------------------------------------------------------ scheduler process

    @property
    def _decisions(self) -> SchedulerSide:
        if self._scheduler is None:
            raise RuntimeError("a scheduler-side method was called on the worker's connector")
        return self._scheduler

    def bind_gpu_block_pool(self, gpu_block_pool: BlockPool) -> None:
        """vLLM's own prefix cache: the pool mirrors what it holds."""
        self._decisions.hbm.bind(gpu_block_pool)

    def on_new_request(self, request: Request) -> None:
        if request.prompt_token_ids is None:
            return  # prompt embeddings have no tokens to index
        raw = (request.kv_transfer_params or {}).get(PARAMS_KEY)
        try:
            params = convert(raw, RequestParams, "kv_transfer_params.memserve") if raw else None
        except ConfigError as error:
            logger.warning("request %s is served without its KV hints: %s", request.request_id, error)
            params = None
        params = params or RequestParams(request=RequestId(request.request_id), phase=Phase.WHOLE)
        self._decisions.arrive(
            key=request.request_id,
            params=params,
            tokens=request.prompt_token_ids,
            namespace=request_namespace(request),
        )

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        if request.skip_reading_prefix_cache:
            return 0, False
        found = self._decisions.match(
            key=request.request_id,
            tokens=lambda: request.all_token_ids[: request.num_tokens],
            num_local_tokens=num_computed_tokens,
        )
        return found, bool(found)

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        self._decisions.allocated(
            key=request.request_id,
            engine_blocks=blocks.get_block_ids()[0],
            num_external_tokens=num_external_tokens,
        )

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        before = {r.req_id: r.num_computed_tokens for r in scheduler_output.scheduled_new_reqs}
        cached = scheduler_output.scheduled_cached_reqs
        before.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        blocks = scheduler_output.kv_connector_block_state
        scheduled = {
            key: (blocks.resolve_block_ids(key)[0], before[key] + num_new)
            for key, num_new in scheduler_output.num_scheduled_tokens.items()
        }
        return self._decisions.plan_step(scheduled=scheduled, preempted=tuple(scheduler_output.preempted_req_ids or ()))

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        done = connector_output.kv_connector_worker_meta
        if isinstance(done, JobsDone):
            self._decisions.jobs_ended(done.results)

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        if request.status not in _SERVED and not self._was_answering(request):
            return self._decisions.abort(key=request.request_id, engine_blocks=block_ids), None
        delay, report = self._decisions.finish(
            key=request.request_id,
            engine_blocks=block_ids,
            tokens=request.all_token_ids[: _num_kv(request)],
            num_output_tokens=request.num_output_tokens,
        )
        params = {PARAMS_KEY: msgspec.to_builtins(report)} if report is not None else None
        return delay, params

    def _was_answering(self, request: Request) -> bool:
        """Broken off in the middle of its answer: by a client that left or, as vLLM does it, at a stop string.

        What has been computed is as good as of any other answer.
        """
        is_cut = request.status is RequestStatus.FINISHED_ABORTED and request.num_output_tokens > 0
        return is_cut and self._decisions.is_computing(request.request_id)

    # ------------------------------------------------------------ worker process

    @property
    def _copies(self) -> WorkerSide:
        if self._worker is None:
            raise RuntimeError("a worker-side method was called before register_kv_caches")
        return self._worker

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        parallel = self._vllm_config.parallel_config
        layout = model_layout(self._vllm_config, self._kv_cache_config)
        share = own_share(self._vllm_config, layout)
        self._committer = Committer(rank=parallel.rank, num_ranks=parallel.world_size, secret=self._network.secret)
        self._worker = WorkerSide(
            memory=EngineMemory(self._kv_cache_config, kv_caches, layout=layout, share=share),
            attach=attach,
            commit=self._committer.commit,
            network=RoomWriters(
                self._config.paths,
                name=f"{self._config.instance}/worker {parallel.rank}/{uuid4().hex}",
                network=self._network,
                clock=SystemClock(),
            ),
            rank=parallel.rank,
            clock=SystemClock(),
            plan=self._config.pieces,
        )

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        """First call of each step, before anything is overwritten: copies start here, beside the forward."""
        if isinstance(kv_connector_metadata, StepPlan):
            self._copies.begin_step(kv_connector_metadata)

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        """Loads are asynchronous and have been under way since handle_preemptions."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing to wait for: a request runs only after its load has ended."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: AttentionMetadata, **kwargs: Any
    ) -> None:
        self._copies.layer_computed(layer_name)

    def wait_for_save(self) -> None:
        self._copies.end_step()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        released, loaded = self._copies.take_finished()
        return released or None, loaded or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._copies.take_bad_blocks()

    def build_connector_worker_meta(self) -> JobsDone | None:
        results = self._copies.take_results()
        return JobsDone(results=results) if results else None

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()
        if self._committer is not None:
            self._committer.close()
        if self._pool is not None:
            self._pool.close()


def _network(config: ConnectorConfig) -> Network:
    """Raises ConfigError."""
    check_plain_paths(config.paths, secret=config.secret, plain_nixl=config.plain_nixl)
    secret = read_secret(config.secret) if config.secret else None
    return Network(bind=config.bind, advertise=config.advertise, tls=config.tls, secret=secret)


def _num_kv(request: Request) -> int:
    """Leading tokens that have KV; where a step was cut short, its newest token may not have it yet."""
    if request.status is RequestStatus.FINISHED_ABORTED:
        return int(min(request.num_computed_tokens, request.num_tokens - 1))
    return int(request.num_computed_tokens)
