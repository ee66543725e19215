"""The gateway as an ASGI app: which path goes where, and how every error looks.

Owns the route table. Everything it works with is handed in by a GatewayContext.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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

    return Starlette(
        routes=[
            *[Route(p, CompletionRoute(runtime, p), methods=["POST"]) for p in COMPLETION_PATHS],
            *[Route(p, PassThrough(runtime, p), methods=["POST"]) for p in ENGINE_PATHS],
            *AdminRoutes(context).routes(),
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
