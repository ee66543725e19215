"""What operators and monitors ask: health, metrics, the cluster, recent requests, the model list.

Owns the views and the few switches that may be set while the gateway serves.
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from memserve.core.enums import SERVING_ROLES, TransferMode
from memserve.core.errors import ConfigError
from memserve.core.ids import RequestId
from memserve.gateway.context import GatewayContext
from memserve.gateway.errors import ApiError, bad_request, unavailable
from memserve.gateway.explanation import explain
from memserve.gateway.records import RequestRecord
from memserve.scheduler.policies import find_policy

_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
_DEFAULT_LIMIT = 100
_MAX_LIMIT = 10_000


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
            Route("/admin/requests", self.requests),
            Route("/admin/requests/{request:path}", self.request),
            Route("/admin/explain/{request:path}", self.explain),
        ]

    async def health(self, _: Request) -> Response:
        """200 when at least one instance can serve."""
        if not self._context.cluster.view.active(*SERVING_ROLES):
            raise unavailable("no active instance; see /admin/cluster")
        return Response()

    async def metrics(self, _: Request) -> Response:
        return Response(self._context.metrics.exposition(), media_type=_EXPOSITION)

    async def cluster(self, _: Request) -> Response:
        """The view, who is missing, what the scheduler has queued, where instances join, how blocks get to others."""
        cluster = self._context.cluster
        return _json(
            {
                "view": cluster.view,
                "scheduler": self._context.scheduler.stats(),
                "manager": cluster.endpoint,
                "path_checks": cluster.path_checks,
                "failures": cluster.failures,
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
        return _json(asked)

    async def set_policy(self, request: Request) -> Response:
        """Route by it from the next request on: {"policy": "least-load"}; an unknown one is answered with the known."""
        try:
            asked = msgspec.json.decode(await request.body(), type=PolicyChoice)
            self._context.scheduler.use(await asyncio.to_thread(find_policy, asked.policy))
        except msgspec.MsgspecError as error:
            raise bad_request(f'{error}; send {{"policy": "prompt-tree"}}', param="policy") from error
        except ConfigError as error:
            raise bad_request(str(error), param="policy") from error
        return _json(asked)

    async def requests(self, request: Request) -> Response:
        """The latest, newest first; ?limit= up to 10,000."""
        text = request.query_params.get("limit", str(_DEFAULT_LIMIT))
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MAX_LIMIT:
            raise bad_request(f"limit={text}: give a number from 1 to {_MAX_LIMIT}", param="limit")
        return _json({"requests": self._context.history.latest(int(text))})

    async def request(self, request: Request) -> Response:
        """One request: its decisions and what every instance reported."""
        return _json(self._record(request))

    async def explain(self, request: Request) -> Response:
        """The same in words, what was predicted beside what became of it."""
        return _json(explain(self._record(request)))

    def _record(self, request: Request) -> RequestRecord:
        record = self._context.history.find(RequestId(request.path_params["request"]))
        if record is None:
            raise ApiError(
                f"request {request.path_params['request']} is not among the latest {_MAX_LIMIT}",
                status=HTTPStatus.NOT_FOUND,
            )
        return record


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content, enc_hook=_listed), media_type="application/json")


def _listed(content: object) -> object:
    """A decision's candidates, which are made when somebody asks."""
    if isinstance(content, Sequence):
        return list(content)
    raise NotImplementedError(f"{type(content).__name__} has no form in JSON")
