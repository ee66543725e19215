"""Closes an instance's own HTTP server to all but the gateway. vLLM loads it by name (--middleware).

vLLM's key guards the OpenAI routes; this guards the others, too: whoever may tokenize, pause or reset caches at an
instance may disturb the cluster. Only /health stays open, as it tells nothing.
"""

import hmac
import os
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from memserve.core.errors import ConfigError

KEY_VARIABLE = "VLLM_API_KEY"
"""As vLLM names it; never on a command line, where every user of the machine sees it."""
_OPEN = "/health"


class OnlyTheGateway:
    """ASGI middleware, made by vLLM without arguments: the key comes with the environment of the process."""

    def __init__(self, app: ASGIApp) -> None:
        """Raises ConfigError without a key."""
        key = os.environ.get(KEY_VARIABLE, "")
        if not key:
            raise ConfigError(f"{KEY_VARIABLE} is not set: start instances of a cluster with a secret by memserve")
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] == _OPEN or self._admits(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
        else:
            told = {"error": {"message": "this instance answers its gateway only", "code": HTTPStatus.UNAUTHORIZED}}
            await JSONResponse(told, status_code=HTTPStatus.UNAUTHORIZED)(scope, receive, send)

    def _admits(self, headers: Headers) -> bool:
        return hmac.compare_digest(headers.get("authorization", "").encode(), self._expected)
