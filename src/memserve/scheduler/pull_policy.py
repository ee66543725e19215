"""Transfer or recompute: whether an instance pulls a prefix from one that holds more of it, before it computes.

    pull   iff   seconds to compute what it lacks and the other holds   >   latency + bytes / bandwidth

Owns the two estimates: the terms it was given (those of a CostProfile where there is one) times factors that
follow what really happened, per instance that computes and per pair that transfers. Who has not been seen yet
gets the factor of all together. Does no I/O and takes no time itself.
"""

from collections import OrderedDict
from collections.abc import Hashable
from math import exp, log

from memserve.core.enums import TransferMode
from memserve.core.ids import InstanceId
from memserve.scheduler.cost_model import PathTerms, PrefillTerms
from memserve.scheduler.decision import PullWeighing
from memserve.wire.messages import MovedBlocks

ASSUMED_PREFILL = PrefillTerms(fixed_s=0.0, per_token_s=1 / 5_000, per_pair_s=0.0)
"""5,000 tokens/s: assumed until something was measured."""
ASSUMED_PATH = PathTerms(latency_s=0.005, bytes_per_s=5e8)
"""5 ms and 0.5 GB/s until something was pulled: the slower end of what two processes of a two-core host showed."""

_LEAST_PREFILL_TOKENS = 256
"""Of a shorter prefill most of the time is not spent computing."""
_LEAST_WEIGHT = 0.1
_MAX_LOG = log(1e4)
_FADING = 0.99
_MAX_KEYS = 8192


class _Factors:
    """One factor per key and one of all together, each a running mean in the logarithm."""

    def __init__(self) -> None:
        self._means: OrderedDict[Hashable, tuple[float, int]] = OrderedDict({None: (0.0, 0)})

    def of(self, key: Hashable) -> float:
        return exp((self._means.get(key) or self._means[None])[0])

    def learn(self, key: Hashable, factor: float) -> None:
        seen = min(max(log(factor), -_MAX_LOG), _MAX_LOG)
        for name in (key, None):
            mean, count = self._means.get(name) or self._means[None]
            weight = max(_LEAST_WEIGHT, 1 / (count + 2))
            self._means[name] = mean + weight * (seen - mean), count + 1
        self._means.move_to_end(None)
        if len(self._means) > _MAX_KEYS:
            self._means.popitem(last=False)

    def fade(self, key: Hashable) -> None:
        """Believe a bad experience a little less, so that it is tried again some day."""
        for name in (key, None):
            mean, count = self._means.get(name, (0.0, 0))
            if mean > 0:
                self._means[name] = mean * _FADING, count


class PullPolicy:
    """Weighs pulls and learns from them."""

    def __init__(self, *, prefill: PrefillTerms = ASSUMED_PREFILL, path: PathTerms = ASSUMED_PATH) -> None:
        self._prefill = prefill
        self._path = path
        self._computing = _Factors()
        self._transferring = _Factors()

    def weigh(
        self,
        *,
        target: InstanceId,
        source: InstanceId,
        prompt_tokens: int,
        held_tokens: int,
        source_tokens: int,
        bytes_per_token: float,
    ) -> PullWeighing:
        """What `target`, which holds `held_tokens`, would pay and save if it had `source_tokens` from `source`."""
        gained = source_tokens - held_tokens
        seconds = self._prefill.seconds
        without = seconds(prompt_tokens, held_tokens / prompt_tokens)
        recompute_s = without - seconds(prompt_tokens, source_tokens / prompt_tokens)
        num_bytes = round(gained * bytes_per_token)
        return PullWeighing(
            source=source,
            gained_tokens=gained,
            num_bytes=num_bytes,
            transfer_s=self._path.seconds(num_bytes) * self._transferring.of((source, target)),
            recompute_s=recompute_s * self._computing.of(target),
        )

    def compute_s(self, target: InstanceId, *, prompt_tokens: int, held_tokens: int) -> float:
        """What `target` takes to compute what it does not hold of a prompt, with nothing else to do."""
        return self._prefill.seconds(prompt_tokens, held_tokens / prompt_tokens) * self._computing.of(target)

    def move_s(self, source: InstanceId, target: InstanceId, num_bytes: int) -> float:
        """What it takes to have so many bytes of blocks sent in one piece."""
        return self._path.seconds(num_bytes) * self._transferring.of((source, target))

    def declined(self, weighing: PullWeighing, target: InstanceId) -> None:
        """It was not worth it: what made transfers look slow fades, as nothing new is learnt of them."""
        self._transferring.fade((weighing.source, target))

    def moved(self, moved: MovedBlocks) -> None:
        """Blocks went over in one piece; those sent layer by layer took the time of the computation."""
        if moved.mode is TransferMode.BY_REQUEST and moved.num_bytes > 0 and moved.seconds > 0:
            predicted = self._path.seconds(moved.num_bytes)
            self._transferring.learn((moved.source, moved.target), moved.seconds / predicted)

    def prefilled(self, target: InstanceId, *, prompt_tokens: int, held_tokens: int, seconds: float) -> None:
        """`target`, with nothing else to do, has computed what it did not hold of a prompt."""
        if prompt_tokens - held_tokens < _LEAST_PREFILL_TOKENS or seconds <= 0:
            return
        predicted = self._prefill.seconds(prompt_tokens, held_tokens / prompt_tokens)
        self._computing.learn(target, seconds / predicted)

    def __repr__(self) -> str:
        return f"PullPolicy(computing x{self._computing.of(None):.2f}, transferring x{self._transferring.of(None):.2f})"
