"""What operators and monitors ask: health, metrics, the cluster.

Owns the views and the few switches that may be set while the gateway serves.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from memserve.core.enums import SERVING_ROLES, TransferMode
from memserve.core.errors import ConfigError
from memserve.gateway.context import GatewayContext
from memserve.gateway.errors import bad_request, unavailable
from memserve.gateway.json_answer import JsonAnswer
from memserve.gateway.worker_messages import Books
from memserve.gateway.worker_metrics import labelled
from memserve.scheduler.policies import find_policy
from memserve.scheduler.scheduler import SchedulerStats

_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class TransferChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    transfer: TransferMode | None


class PolicyChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    policy: str


class AdminRoutes:
    def __init__(self, context: GatewayContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        return [
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/admin/cluster", self.cluster),
            Route("/admin/transfer", self.set_transfer, methods=["PUT"]),
            Route("/admin/policy", self.set_policy, methods=["PUT"]),
        ]

    async def health(self, _: Request) -> Response:
        """200 when at least one instance can serve."""
        if not self._context.cluster.view.active(*SERVING_ROLES):
            raise unavailable("no active instance; see /admin/cluster")
        return Response()

    async def metrics(self, _: Request) -> Response:
        """Of all processes that serve at this port; where there are several, with the label `worker`."""
        metrics, workers = self._context.metrics, self._context.workers
        if not workers.states():
            return Response(metrics.exposition(), media_type=_EXPOSITION)
        others = {number: reply.body for number, reply in (await workers.ask("/metrics")).items()}
        counted = await asyncio.to_thread(labelled, {0: metrics.own(), **others})
        return Response(counted + metrics.of_cluster(), media_type=_EXPOSITION)

    async def cluster(self, _: Request) -> Response:
        """The view, who is missing, what the scheduler has queued, where instances join, how blocks get to others."""
        cluster, workers = self._context.cluster, self._context.workers
        return JsonAnswer(
            {
                "view": cluster.view,
                "scheduler": _over_all(self._context.scheduler.stats(), workers.books()),
                "manager": cluster.endpoint,
                "path_checks": cluster.path_checks,
                "failures": cluster.failures,
                "workers": workers.states(),
            }
        )

    async def set_transfer(self, request: Request) -> Response:
        """From the next request on, KV leaves so: {"transfer": "by-layer" | "by-request" | "auto" | null}."""
        try:
            asked = msgspec.json.decode(await request.body(), type=TransferChoice)
        except msgspec.MsgspecError as error:
            modes = " or ".join(f'{{"transfer": "{mode}"}}' for mode in TransferMode)
            raise bad_request(f"{error}; send {modes}", param="transfer") from error
        self._context.switches.transfer = asked.transfer
        await self._context.workers.follow_choices()
        return JsonAnswer(asked)

    async def set_policy(self, request: Request) -> Response:
        """Route by it from the next request on: {"policy": "least-load"}; an unknown one is answered with the known."""
        try:
            asked = msgspec.json.decode(await request.body(), type=PolicyChoice)
            self._context.scheduler.use(await asyncio.to_thread(find_policy, asked.policy))
        except msgspec.MsgspecError as error:
            raise bad_request(f'{error}; send {{"policy": "prompt-tree"}}', param="policy") from error
        except ConfigError as error:
            raise bad_request(str(error), param="policy") from error
        await self._context.workers.follow_choices()
        return JsonAnswer(asked)


def _over_all(stats: SchedulerStats, books: Sequence[Books]) -> SchedulerStats:
    """With what the other workers have under way; trees and answers are as this one knows them."""
    queued = Counter(stats.queued_tokens)
    for one in books:
        queued.update(one.queued_tokens)
    in_flight = stats.num_in_flight + sum(one.num_in_flight for one in books)
    return msgspec.structs.replace(stats, num_in_flight=in_flight, queued_tokens=dict(queued))
