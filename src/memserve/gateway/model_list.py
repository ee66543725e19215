"""/v1/models: what an active instance says, else the names this gateway was started for.

Owns the answer while no instance is active, so that a client that lists models first does not fail on a
cluster that is still starting.
"""

import msgspec
from starlette.types import Receive, Scope, Send

from memserve.gateway.client_connection import JSON_HEADERS, ClientConnection
from memserve.gateway.pass_through import PassThrough, least_busy
from memserve.gateway.runtime import GatewayRuntime


class ModelList:
    """ASGI app."""

    def __init__(self, runtime: GatewayRuntime) -> None:
        self._context = runtime.context
        self._engines = PassThrough(runtime, "/v1/models")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if least_busy(self._context.cluster.view) is not None:
            await self._engines(scope, receive, send)
            return
        names = sorted(name for name in self._context.base_models if name)
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "memserve"} for name in names]
        body = msgspec.json.encode({"object": "list", "data": models})
        await ClientConnection(scope, receive, send).send_whole(status=200, body=body, headers=JSON_HEADERS)
