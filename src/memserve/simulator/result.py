"""The figures of one simulated run, and what they are made from while it runs."""

import msgspec
import numpy as np

from memserve.simulator.engine import ModelledInstance
from memserve.simulator.setting import Setting
from memserve.simulator.trace import Trace, ideal_hit_ratio


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    layout: str
    instances: int
    speed: float
    """Requests came this many times as fast as in the trace."""
    hit_ratio: float
    """Share of all prompt blocks that the instance in charge held, those pulled for the request among them."""
    ideal_hit_ratio: float
    """The same with one endless cache for everyone."""
    ttft_avg_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    jct_avg_s: float
    jct_p50_s: float
    jct_p99_s: float
    load_max_over_mean: float
    """Of the time that an instance computes, over the whole trace."""
    decide_p50_us: float
    utilisation: float
    """Mean share of the time to the last answer in which an instance computes."""
    seconds: float
    """From the first request to the last answer."""
    requests: int
    prompt_tokens_avg: float
    output_tokens_avg: float
    split_ratio: float
    """Share of the requests that one instance prefilled and another one decoded."""
    pull_ratio: float
    """Share of the requests for which KV was pulled."""
    moved_bytes: float
    """Between instances, for whatever reason."""


class Tally:
    """Times by number of request, and counts; `result` once at the end."""

    def __init__(self, num_requests: int) -> None:
        self.arrived_s = np.zeros(num_requests)
        self.first_token_s = np.zeros(num_requests)
        self.done_s = np.zeros(num_requests)
        self.decide_s: list[float] = []
        self.hit_blocks = 0
        self.num_splits = 0
        self.num_pulls = 0
        self.moved_bytes = 0.0

    def result(self, trace: Trace, setting: Setting, instances: list[ModelledInstance]) -> SimulationResult:
        ttft, jct = self.first_token_s - self.arrived_s, self.done_s - self.arrived_s
        busy = np.array([instance.busy_s for instance in instances])
        return SimulationResult(
            policy=setting.policy,
            layout=setting.layout,
            instances=setting.instances,
            speed=setting.speed,
            hit_ratio=self.hit_blocks / trace.num_blocks,
            ideal_hit_ratio=ideal_hit_ratio(trace),
            ttft_avg_s=float(ttft.mean()),
            ttft_p50_s=float(np.median(ttft)),
            ttft_p99_s=float(np.quantile(ttft, 0.99)),
            jct_avg_s=float(jct.mean()),
            jct_p50_s=float(np.median(jct)),
            jct_p99_s=float(np.quantile(jct, 0.99)),
            load_max_over_mean=float(busy.max() / busy.mean()),
            decide_p50_us=float(np.median(self.decide_s)) * 1e6,
            utilisation=float(busy.mean() / self.done_s.max()),
            seconds=float(self.done_s.max()),
            requests=len(trace.requests),
            prompt_tokens_avg=float(np.mean([request.prompt_tokens for request in trace.requests])),
            output_tokens_avg=float(np.mean([request.output_tokens for request in trace.requests])),
            split_ratio=self.num_splits / len(trace.requests),
            pull_ratio=self.num_pulls / len(trace.requests),
            moved_bytes=self.moved_bytes,
        )

    def __repr__(self) -> str:
        return f"Tally({len(self.decide_s)} decided, {self.num_splits} split, {self.num_pulls} pulled)"
