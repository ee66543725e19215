"""Who may use the admin API: with a cluster secret, only who shows the token that is derived from it.

Owns the check, before any route is chosen. Health, metrics and the OpenAI API are none of its business.
"""

import hmac
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from memserve.gateway.errors import ApiError
from memserve.security.secret import ClusterSecret, Purpose

_PREFIX = "/admin"


class AdminGuard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, *, secret: ClusterSecret) -> None:
        self._app = app
        self._expected = f"Bearer {secret.token(Purpose.ADMIN_HTTP)}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not scope["path"].startswith(_PREFIX) or self._admits(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            "the admin API of this cluster needs its secret: give the command --cluster-secret FILE, or send "
            "`Authorization: Bearer TOKEN` with what `memserve secret FILE --admin-token` prints",
            status=HTTPStatus.UNAUTHORIZED,
        )
        answer = Response(
            error.body(),
            status_code=error.status,
            media_type="application/json",
            headers={"www-authenticate": "Bearer"},
        )
        await answer(scope, receive, send)

    def _admits(self, headers: Headers) -> bool:
        return hmac.compare_digest(headers.get("authorization", "").encode(), self._expected)
