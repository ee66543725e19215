"""What became of requests: the latest ones, and one in numbers or in words.

Owns the views. Where several processes serve, a record lies with the one that had the request, which its id tells;
by the name that a client gave its request, all of them are asked.
"""

from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from memserve.core.ids import RequestId
from memserve.gateway.context import GatewayContext
from memserve.gateway.errors import ApiError, bad_request
from memserve.gateway.explanation import explain
from memserve.gateway.json_answer import JsonAnswer, encoded
from memserve.gateway.records import RequestRecord
from memserve.gateway.worker_ids import owner_of
from memserve.gateway.worker_messages import AppReply

_DEFAULT_LIMIT = 100
_MAX_LIMIT = 10_000


class _Listed(msgspec.Struct, frozen=True, kw_only=True):
    """Another worker's answer to /admin/requests."""

    requests: tuple[dict[str, Any], ...]


class RequestRoutes:
    def __init__(self, context: GatewayContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        return [
            Route("/admin/requests", self.requests),
            Route("/admin/requests/{request:path}", self.request),
            Route("/admin/explain/{request:path}", self.explain),
        ]

    async def requests(self, request: Request) -> Response:
        """The latest, newest first; ?limit= up to 10,000."""
        text = request.query_params.get("limit", str(_DEFAULT_LIMIT))
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MAX_LIMIT:
            raise bad_request(f"limit={text}: give a number from 1 to {_MAX_LIMIT}", param="limit")
        limit = int(text)
        own = self._context.history.latest(limit)
        others = await self._context.workers.ask("/admin/requests", f"limit={limit}".encode())
        if not others:
            return JsonAnswer({"requests": own})
        pages = [encoded({"requests": own}), *(reply.body for reply in others.values())]
        found = [record for page in pages for record in msgspec.json.decode(page, type=_Listed).requests]
        found.sort(key=lambda record: float(record["started"]), reverse=True)
        return JsonAnswer({"requests": found[:limit]})

    async def request(self, request: Request) -> Response:
        """One request: its decisions and what every instance reported."""
        record = self._own(request)
        return JsonAnswer(record) if record is not None else await self._of_others(request)

    async def explain(self, request: Request) -> Response:
        """The same in words, what was predicted beside what became of it."""
        record = self._own(request)
        return JsonAnswer(explain(record)) if record is not None else await self._of_others(request)

    def _own(self, request: Request) -> RequestRecord | None:
        """By its id, or by what its client called it."""
        name, history = request.path_params["request"], self._context.history
        return history.find(RequestId(name)) or history.find(RequestId(f"{name}{self._context.id_ending}"))

    async def _of_others(self, request: Request) -> Response:
        """As the worker answers that had it. Raises ApiError 404 when none has."""
        name, path, workers = request.path_params["request"], request.scope["path"], self._context.workers
        owner = owner_of(RequestId(name))
        told = await workers.ask_owner(owner, path) if owner is not None else None
        replies = [told] if told is not None else list((await workers.ask(path)).values())
        found = next((reply for reply in replies if reply.status == HTTPStatus.OK), None)
        if found is None:
            raise ApiError(f"request {name} is not among the latest {_MAX_LIMIT}", status=HTTPStatus.NOT_FOUND)
        return _relayed(found)


def _relayed(reply: AppReply) -> Response:
    return Response(reply.body, status_code=reply.status, media_type=JsonAnswer.media_type)
