"""What the scheduler side knows of one request of vLLM, from arrival to the release of its blocks."""

from memserve.core.enums import Phase, TransferMode
from memserve.core.ids import BlockId, LeaseId, RequestId
from memserve.engines.vllm.awaited import Awaited
from memserve.engines.vllm.incoming import Incoming
from memserve.engines.vllm.outgoing import Outgoing
from memserve.wire.identity import Namespace
from memserve.wire.messages import PeerInfo


class Loading:
    """Blocks of the own pool that the request is about to load or is loading."""

    def __init__(
        self, *, blocks: tuple[BlockId, ...], num_tokens: int, lease: LeaseId | None, num_on_disk: int = 0
    ) -> None:
        self.blocks = blocks
        self.num_tokens = num_tokens
        """Leading prompt tokens that `blocks` cover."""
        self.lease = lease
        """None: the blocks are a handoff, held for this request by name."""
        self.num_on_disk = num_on_disk
        """Blocks that continue `blocks`, but on disk, from where nothing is loaded."""
        self.has_started = False


class Saving:
    """New blocks of the own pool that will hold what the request computed."""

    def __init__(self, *, tokens: bytes, blocks: tuple[BlockId, ...], new: tuple[BlockId, ...], lease: LeaseId | None):
        self.tokens = tokens
        self.blocks = blocks
        """All whole blocks of `tokens`, the already cached ones first."""
        self.new = new
        self.lease = lease


class RequestState:
    """Mutable; owned and changed by SchedulerSide alone."""

    is_running = False
    """vLLM has given it room; False again after a preemption."""
    is_finished = False
    is_kept_by_us = False
    """vLLM was told to keep the engine blocks until a StepPlan releases them."""
    is_aborted = False
    is_prompt_saved = False
    """The copy of its prompt into the own pool was ordered, before the answer was complete."""
    unsaved = b""
    """All its tokens, to be saved once the copy of its prompt has ended."""

    def __init__(
        self,
        *,
        key: str,
        request: RequestId,
        phase: Phase,
        peer: PeerInfo | None,
        tokens: bytes,
        namespace: Namespace,
        transfer: TransferMode,
        arrived_at: float,
        num_given: int = 0,
    ) -> None:
        self.key = key
        """vLLM's id, unique per engine request."""
        self.request = request
        """The gateway's id, shared by the instances that work for it; the vLLM id without a gateway."""
        self.phase = phase
        self.peer = peer
        self.prompt = tokens
        """Little-endian int32."""
        self.handed = tokens[: len(tokens) - 4 * num_given]
        """The part of it that a prefill instance hands over."""
        self.namespace = namespace
        self.transfer = transfer
        self.arrived_at = arrived_at
        """Clock time, as the next two."""
        self.started_at: float | None = None
        """First given room; None until then."""
        self.ended_at: float | None = None
        self.wait_until = 0.0
        """Clock time until which the request may wait for another instance before it computes instead."""
        self.num_hbm_tokens = 0
        self.num_dram_tokens = 0
        self.num_disk_tokens = 0
        self.num_pulled_tokens = 0
        """Came from another instance's pool before the load."""
        self.num_received_tokens = 0
        self.num_output_tokens = 0
        self.loading: Loading | None = None
        self.saving: Saving | None = None
        self.pulling: Incoming | None = None
        """Another instance -> own pool."""
        self.promoting: Awaited | None = None
        """Own disk -> own DRAM."""
        self.handing_over: Outgoing | None = None
        """Prefill -> decode."""
        self.returning: Outgoing | None = None
        """Decode -> prefill."""
        self.open_jobs: set[int] = set()
        """Copies that some worker has not reported yet."""
        self.engine_blocks: tuple[int, ...] = ()
        """Set when the request has finished; vLLM keeps them until the request is released."""

    def note_start(self, now: float) -> None:
        """vLLM has given it room; only the first time counts."""
        if self.started_at is None:
            self.started_at = now

    def count_loaded(self, loading: Loading, num_external_tokens: int) -> None:
        """vLLM computes the last prompt token again to sample from it: that one does not count as loaded."""
        num_cached = min(self.num_hbm_tokens + num_external_tokens, self.num_prompt_tokens - 1)
        num_loaded = max(0, num_cached - self.num_hbm_tokens)
        is_handoff = loading.lease is None
        self.num_received_tokens = num_loaded if is_handoff else 0
        num_promoted = self.promoting.num_tokens if self.promoting is not None else 0
        self.num_disk_tokens = 0 if is_handoff else min(num_promoted, num_loaded)
        self.num_dram_tokens = 0 if is_handoff else num_loaded - self.num_disk_tokens

    @property
    def queue_s(self) -> float:
        """0 when it never started."""
        return 0.0 if self.started_at is None else self.started_at - self.arrived_at

    @property
    def run_s(self) -> float:
        """0 when it never started or has not ended."""
        return 0.0 if self.started_at is None or self.ended_at is None else self.ended_at - self.started_at

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt) // 4

    @property
    def outgoing(self) -> tuple[Outgoing, ...]:
        return tuple(o for o in (self.handing_over, self.returning) if o is not None)
