"""What a further worker serves at the shared port: completions by itself; what only worker 0 can answer goes there.

Owns which paths those are, and the bound on what is handed over. ASGI, before the worker's own app.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from memserve.core.errors import MemserveError
from memserve.gateway.errors import ApiError, unavailable
from memserve.gateway.worker_messages import AppReply, AppRequest

MAX_BODY_BYTES = 32 << 20
"""A prompt of a million tokens to be pinned takes about 10 MB."""

Forward = Callable[[AppRequest], Awaitable[AppReply]]
"""To worker 0; raises MemserveError when there is no answer."""


class WorkerFront:
    def __init__(self, app: ASGIApp, *, forward: Forward) -> None:
        self._app = app
        self._forward = forward

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_of_worker_0(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            reply = await self._forward(await _whole(Request(scope, receive)))
        except MemserveError as error:
            told = error if isinstance(error, ApiError) else unavailable(f"worker 0 does not answer: {error}")
            reply = AppReply(status=told.status, headers=((b"content-type", b"application/json"),), body=told.body())
        response = Response(reply.body, status_code=reply.status)
        response.raw_headers = [*reply.headers]
        await response(scope, receive, send)


def _is_of_worker_0(path: str) -> bool:
    return path in {"/metrics", "/admin"} or path.startswith("/admin/")


async def _whole(request: Request) -> AppRequest:
    """Raises ApiError 413 for more than MAX_BODY_BYTES."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(
                f"the body is longer than {MAX_BODY_BYTES} bytes, the most that the admin API takes",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
    return AppRequest(
        method=request.method,
        path=request.scope["path"],
        query=request.scope["query_string"],
        headers=tuple(request.scope["headers"]),
        body=bytes(body),
    )
