"""memserve's global scheduler as a measured system: as the gateway runs it, with the policy `prompt-tree`.

`match` asks who holds how much; `choose` is match, scores and choice, what other systems are asked for; `decide` is
all that the gateway waits for: a pull is weighed, a forecast made for the log, and the load entered, which is taken out
again outside the clock. Of each prompt one of them is asked: the next would find it in the caches.
"""

from random import Random
from time import perf_counter_ns

from memserve import __version__
from memserve.bench.prompts import BLOCK_SIZE, Tokens
from memserve.bench.routing import NUM_INSTANCES
from memserve.bench.systems.scheduler_child import serve_scheduler
from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.clock import SystemClock
from memserve.core.enums import Role, Tier
from memserve.core.ids import Epoch, Incarnation, InstanceId, RequestId
from memserve.scheduler.decision import Outcome
from memserve.scheduler.flight import Asked
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.scheduler import Scheduler
from memserve.scheduler.tokens import token_bytes
from memserve.wire.events import BlocksEvicted, BlocksStored, EventBatch, IndexEvent, SnapshotPart
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import Load, PeerInfo

_IDENTITY = KvIdentity(
    model="m",
    dtype="bfloat16",
    engine="vllm",
    backend="cuda",
    block_size=BLOCK_SIZE,
    block_bytes=BLOCK_SIZE << 17,
    num_layers=32,
)
_INCARNATION = Incarnation(1)
_REQUEST = RequestId("bench")
_OPERATIONS = ("match", "choose", "decide")
_OUTPUT_TOKENS = 128.0


class MemserveScheduler:
    """One scheduler, fed by events."""

    version = __version__
    forms: tuple[str, ...] = ("int32", "list")

    def open(self, *, split: bool, num_blocks: int) -> int:
        half = NUM_INSTANCES // 2
        names = [InstanceId(f"instance-{number}") for number in range(NUM_INSTANCES)]
        roles = [Role.PREFILL] * half + [Role.DECODE] * half if split else [Role.COLOCATED] * NUM_INSTANCES
        self._view = ClusterView(epoch=Epoch(1), instances=tuple(map(_instance, names, roles)))
        self._scheduler = Scheduler(
            block_size=BLOCK_SIZE,
            policy="prompt-tree",
            clock=SystemClock(),
            random=Random(0),  # noqa: S311 - ties between instances
            max_tree_blocks=2 * num_blocks,
            pulls=PullPolicy(),
        )
        self._names = names
        self._roles = tuple(dict.fromkeys(roles))
        self._turn = 0
        self._seqs = [0] * NUM_INSTANCES
        for name, role in zip(names, roles, strict=True):
            empty = SnapshotPart(
                instance=name, incarnation=_INCARNATION, seq=0, entries=(), is_first=True, is_last=True
            )
            self._scheduler.admit(name, _INCARNATION, role)
            self._scheduler.reset(empty)
        return half if split else NUM_INSTANCES

    def stored(self, instance: int, prompts: list[Tokens], known: int) -> int:
        return self._apply(
            instance,
            [
                BlocksStored(
                    seq=self._next(instance),
                    namespace=b"",
                    tokens=tokens.tobytes(),
                    num_blocks=tokens.size // BLOCK_SIZE - known,
                    tier=Tier.DRAM,
                )
                for tokens in prompts
            ],
        )

    def evicted(self, instance: int, prompts: list[Tokens], kept: int) -> int:
        return self._apply(
            instance,
            [
                BlocksEvicted(
                    seq=self._next(instance),
                    namespace=b"",
                    tokens=tokens[: (kept + 1) * BLOCK_SIZE].tobytes(),
                    num_blocks=tokens.size // BLOCK_SIZE - kept,
                )
                for tokens in prompts
            ],
        )

    def decide(self, tokens: Tokens, form: str) -> tuple[dict[str, int], int]:
        given = tokens.tolist() if form == "list" else tokens
        self._turn = (self._turn + 1) % len(_OPERATIONS)
        operation = _OPERATIONS[self._turn]
        start = perf_counter_ns()
        if operation == "match":
            most = self._scheduler.holdings.match(self._roles, _asked(given)).levels[-1][0]
            spent = perf_counter_ns() - start
        elif operation == "choose":
            chosen = self._scheduler.chooser.choose(_asked(given), self._view, output_tokens=_OUTPUT_TOKENS)
            spent = perf_counter_ns() - start
            most = chosen.plan.first.matched_tokens
        else:
            decision = self._scheduler.decide(request=_REQUEST, tokens=given, view=self._view)
            spent = perf_counter_ns() - start
            self._scheduler.finish(_REQUEST, outcome=Outcome.FAILED)
            most = decision.candidates[0].matched_tokens
        return {operation: spent}, most // BLOCK_SIZE

    def _next(self, instance: int) -> int:
        self._seqs[instance] += 1
        return self._seqs[instance]

    def _apply(self, instance: int, events: list[IndexEvent]) -> int:
        batch = EventBatch(instance=self._names[instance], incarnation=_INCARNATION, events=tuple(events), as_of=0.0)
        start = perf_counter_ns()
        applied = self._scheduler.apply(batch)
        spent = perf_counter_ns() - start
        if applied.position != self._seqs[instance] or applied.discarded:
            raise RuntimeError(f"events were not taken in: {applied}")
        return spent


def _asked(tokens: Tokens | list[int]) -> Asked:
    return Asked(data=token_bytes(tokens), namespace=b"", session="")


def _instance(name: InstanceId, role: Role) -> InstanceView:
    peer = PeerInfo(instance=name, incarnation=_INCARNATION, endpoint="", identity=_IDENTITY)
    return InstanceView(peer=peer, role=role, url="", state=InstanceState.ACTIVE, load=Load())


if __name__ == "__main__":
    serve_scheduler(MemserveScheduler)
