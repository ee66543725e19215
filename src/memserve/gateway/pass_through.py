"""Every other path of an engine: the least busy active instance answers, bytes pass both ways.

Owns the choice of that instance, which needs no prompt tree, and nothing of what passes.
"""

from http import HTTPStatus

from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from memserve.cluster.view import ClusterView, InstanceView
from memserve.core.enums import SERVING_ROLES
from memserve.core.errors import DeadlineExceeded
from memserve.core.ids import InstanceId
from memserve.gateway import request_body
from memserve.gateway.client_connection import ClientConnection
from memserve.gateway.ending import scope
from memserve.gateway.errors import ApiError, ClientGone, InstanceLost, unavailable
from memserve.gateway.runtime import GatewayRuntime
from memserve.gateway.upstream import forwarded_headers

_MAX_ATTEMPTS = 3


class PassThrough:
    """ASGI app for any number of paths; `route` is its name in the metrics."""

    def __init__(self, runtime: GatewayRuntime, route: str) -> None:
        self._runtime = runtime
        self._context = runtime.context
        self._route = route

    async def __call__(self, asgi_scope: AsgiScope, receive: Receive, send: Send) -> None:
        client = ClientConnection(asgi_scope, receive, send)
        try:
            await self._answer(client, asgi_scope)
        except ClientGone:
            self._context.metrics.requests.labels(self._route, "499").inc()
        else:
            self._context.metrics.requests.labels(self._route, str(client.status)).inc()

    async def _answer(self, client: ClientConnection, asgi_scope: AsgiScope) -> None:
        deadline_s = self._context.settings.request_deadline_s
        try:
            target = _target(asgi_scope)
            tenant = self._context.tenants.of(client.headers)
            body = await client.read_body()
            if body and not client.headers.get("content-type", "").lower().startswith("multipart/"):
                request_body.check_passing(body)
                body = self._context.tenants.salted_body(body, tenant)
            async with scope(deadline_s=deadline_s) as work, client.ends(work):
                await self._pass_on(client, asgi_scope["method"], target, body)
        except ApiError as error:
            await client.fail(error)
        except DeadlineExceeded as error:
            await client.fail(ApiError(f"the request was {error}", status=HTTPStatus.GATEWAY_TIMEOUT))

    async def _pass_on(self, client: ClientConnection, method: str, target: str, body: bytes) -> None:
        excluded: frozenset[InstanceId] = frozenset()
        self._runtime.retries.request_came()
        for _ in range(_MAX_ATTEMPTS):
            instance = least_busy(self._context.cluster.view, excluded)
            if instance is None:
                break
            try:
                return await self._exchange(client, instance, method, target, body)
            except InstanceLost as lost:
                self._context.cluster.request_failed(lost.instance, lost.incarnation, str(lost))
                excluded |= {lost.instance}
                if client.status is not None:
                    raise ApiError(f"the answer broke off: {lost}", status=500) from lost
                self._runtime.pay_for_retry(lost)
        raise unavailable("no active instance can answer; see /admin/cluster")

    async def _exchange(
        self, client: ClientConnection, instance: InstanceView, method: str, target: str, body: bytes
    ) -> None:
        async with (
            self._runtime.watch.using(instance),
            self._runtime.upstream.exchange(
                instance, method=method, target=target, headers=forwarded_headers(client.headers), body=body
            ) as answer,
        ):
            await client.start(status=answer.status, headers=answer.headers())
            async for chunk in answer.chunks():
                await client.send(chunk)
            await client.end()


def least_busy(view: ClusterView, excluded: frozenset[InstanceId] = frozenset()) -> InstanceView | None:
    """Of the active instances with an engine; None when there is none."""
    usable = [i for i in view.active(*SERVING_ROLES) if i.instance not in excluded]
    return min(usable, key=lambda i: i.load.num_running + i.load.num_waiting, default=None)


def _target(asgi_scope: AsgiScope) -> str:
    """Path and query as sent. Raises ApiError 404 on a path that climbs out of the engine's API."""
    if ".." in asgi_scope["path"].split("/"):
        raise ApiError("Not Found", status=HTTPStatus.NOT_FOUND)
    path: bytes = asgi_scope.get("raw_path") or asgi_scope["path"].encode()
    query: bytes = asgi_scope["query_string"]
    return (path.split(b"?")[0] + (b"?" + query if query else b"")).decode("latin-1")
