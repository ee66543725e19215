"""What a request's record says to the cluster manager.

Owns the sums of a report; never sends one.
"""

from memserve.core.ids import InstanceId
from memserve.engines.vllm.request_state import RequestState
from memserve.wire.messages import MovedBlocks, RequestReport


def report_of(state: RequestState, *, instance: InstanceId, moved: tuple[MovedBlocks, ...]) -> RequestReport:
    """What the cluster manager hears of one request on this instance: where its tokens came from, what moved."""
    num_found = state.num_hbm_tokens + state.num_dram_tokens + state.num_disk_tokens + state.num_received_tokens
    return RequestReport(
        request=state.request,
        part=state.key,
        instance=instance,
        phase=state.phase,
        prompt_tokens=state.num_prompt_tokens,
        hbm_tokens=state.num_hbm_tokens,
        dram_tokens=state.num_dram_tokens,
        disk_tokens=state.num_disk_tokens,
        received_tokens=state.num_received_tokens,
        computed_tokens=state.num_prompt_tokens - num_found,
        output_tokens=state.num_output_tokens,
        moved=moved,
        pulled_tokens=min(state.num_pulled_tokens, state.num_dram_tokens),
        queue_s=state.queue_s,
        run_s=state.run_s,
    )
