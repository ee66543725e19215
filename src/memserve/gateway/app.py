"""The gateway as an ASGI app: which path goes where, and how every error looks.

Owns the route table. Everything it works with is handed in by a GatewayContext.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from memserve.gateway.admin_guard import AdminGuard
from memserve.gateway.admin_routes import AdminRoutes
from memserve.gateway.context import GatewayContext
from memserve.gateway.elasticity_routes import ElasticityRoutes
from memserve.gateway.errors import ApiError
from memserve.gateway.model_list import ModelList
from memserve.gateway.openai_routes import CompletionRoute
from memserve.gateway.pass_through import PassThrough
from memserve.gateway.pin_routes import PinRoutes
from memserve.gateway.pool_routes import PoolRoutes
from memserve.gateway.request_routes import RequestRoutes
from memserve.gateway.runtime import GatewayRuntime

COMPLETION_PATHS = ("/v1/chat/completions", "/v1/completions")
ENGINE_PATHS = ("/tokenize", "/detokenize")


def create_app(context: GatewayContext) -> Starlette:
    """The app; needs a server with lifespan support."""
    runtime = GatewayRuntime(context)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with runtime.open():
            yield

    completions = {path: CompletionRoute(runtime, path) for path in COMPLETION_PATHS}
    return _Gateway(
        completions,
        routes=[
            *[Route(path, route, methods=["POST"]) for path, route in completions.items()],
            *[Route(p, PassThrough(runtime, p), methods=["POST"]) for p in ENGINE_PATHS],
            *AdminRoutes(context).routes(),
            *RequestRoutes(context).routes(),
            *ElasticityRoutes(context).routes(),
            *PoolRoutes(context).routes(),
            *PinRoutes(runtime).routes(),
            Route("/v1/models", ModelList(runtime), methods=["GET"]),
            Route("/v1/{path:path}", PassThrough(runtime, "/v1/*")),
        ],
        middleware=[] if context.secret is None else [Middleware(AdminGuard, secret=context.secret)],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _internal_error},
        lifespan=lifespan,
    )


class _Gateway(Starlette):
    """Hands completions to their routes at once: looking for them, and the wrappers on the way, take time."""

    def __init__(self, completions: Mapping[str, CompletionRoute], **options: Any) -> None:
        super().__init__(**options)
        self._completions = completions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._completions:
            await self._completions[scope["path"]](scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def _api_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return Response(error.body(), status_code=error.status, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return await _api_error(request, ApiError(error.detail, status=error.status_code))


async def _internal_error(request: Request, error: Exception) -> Response:
    return await _api_error(request, ApiError("Internal server error", status=500))
