"""/v1/chat/completions and /v1/completions: the edge between one HTTP exchange and its RequestFlow.

Owns request ids, the deadline of the whole exchange, the hang-up watch, and the mapping of every ending
to an answer, a record and a metric. Raw ASGI: nothing between the client's socket and the upstream's.
"""

import logging
import re
from http import HTTPStatus
from random import Random

from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from memserve.core.errors import DeadlineExceeded
from memserve.core.ids import RequestId
from memserve.gateway import request_body
from memserve.gateway.client_connection import ClientConnection
from memserve.gateway.ending import scope
from memserve.gateway.errors import ApiError, ClientGone
from memserve.gateway.explanation import steps_of
from memserve.gateway.job import Job
from memserve.gateway.records import AnswerForm, RequestState
from memserve.gateway.request_body import ClientRequest
from memserve.gateway.request_flow import RequestFlow
from memserve.gateway.runtime import GatewayRuntime
from memserve.gateway.upstream import forwarded_headers

_log = logging.getLogger(__name__)

_ID = re.compile(r"[\x21-\x7e]{1,128}")
REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID_RAW = REQUEST_ID_HEADER.encode()
_SESSION_HEADER = "x-session-id"
_USUAL_ANSWER = 128


class CompletionRoute:
    """ASGI app for one path."""

    def __init__(self, runtime: GatewayRuntime, path: str) -> None:
        self._runtime = runtime
        self._context = runtime.context
        self._path = path
        self._random = Random()  # noqa: S311 - tells requests apart, keeps no secret

    async def __call__(self, asgi_scope: AsgiScope, receive: Receive, send: Send) -> None:
        client = ClientConnection(asgi_scope, receive, send)
        request_id = self._take_id(client.headers.get(REQUEST_ID_HEADER, ""))
        client.extra_headers.append((_REQUEST_ID_RAW, request_id.encode()))
        self._context.history.open(request_id, route=self._path)
        state, error = RequestState.FAILED, ""
        try:
            state, error = await self._answer(client, request_id)
        except Exception:
            if client.status is None:
                await client.fail(ApiError("Internal server error", status=HTTPStatus.INTERNAL_SERVER_ERROR))
            raise
        finally:
            self._close(request_id, client, state, error)

    def _take_id(self, wanted: str) -> RequestId:
        # Reservations, reports and records are by id, so one that was seen before gets a suffix.
        ending = self._context.id_ending
        if not _ID.fullmatch(wanted):
            return RequestId(f"{self._random.getrandbits(128):032x}{ending}")
        request_id = RequestId(f"{wanted}{ending}")
        return (
            RequestId(f"{wanted}-{self._random.getrandbits(32):08x}{ending}")
            if request_id in self._context.history
            else request_id
        )

    async def _answer(self, client: ClientConnection, request_id: RequestId) -> tuple[RequestState, str]:
        try:
            try:
                await self._serve(client, request_id)
            except ApiError as error:
                await client.fail(error)
                return RequestState.FAILED, str(error)
            except DeadlineExceeded as error:
                late = ApiError(f"the request was {error}", status=HTTPStatus.GATEWAY_TIMEOUT)
                await client.fail(late)
                return RequestState.FAILED, str(late)
        except ClientGone as error:
            return RequestState.DISCONNECTED, str(error)
        refused = client.status is None or client.status >= HTTPStatus.BAD_REQUEST
        return (RequestState.REFUSED if refused else RequestState.SERVED), ""

    async def _serve(self, client: ClientConnection, request_id: RequestId) -> None:
        tenant = self._context.tenants.of(client.headers)
        request = self._context.tenants.salted(request_body.parse(await client.read_body()), tenant)
        async with scope(deadline_s=self._context.settings.request_deadline_s) as work, client.ends(work):
            tokens = await self._context.tokenizer.tokens(path=self._path, body=request.values)
            self._note(request_id, request, tokens)
            job = Job(
                id=request_id,
                path=self._path,
                request=request,
                headers=forwarded_headers(client.headers, own=[(_REQUEST_ID_RAW, request_id.encode())]),
                session=request.session or client.headers.get(_SESSION_HEADER, ""),
                tokens=tokens,
                namespace=await self._runtime.namespace(request),
                alone=request_body.must_run_alone(request),
                plan=self._context.model.plan(request, path=self._path),
            )
            async with self._runtime.admission.slot(tenant, cost=_cost(tokens)) as waited_s:
                self._context.metrics.request_waited(tenant.name, seconds=waited_s)
                await RequestFlow(job, runtime=self._runtime, client=client).run()

    def _note(self, request_id: RequestId, request: ClientRequest, tokens: bytes) -> None:
        if not tokens:
            self._context.metrics.unrouted.inc()
        form = AnswerForm.STREAM if request.values.get("stream") else AnswerForm.WHOLE
        self._context.history.understood(
            request_id, model=request.model, prompt_tokens=len(tokens) // 4 or None, form=form
        )

    def _close(self, request_id: RequestId, client: ClientConnection, state: RequestState, error: str) -> None:
        seconds = self._context.history.close(request_id, state=state, status=client.status, error=error)
        status = "499" if state is RequestState.DISCONNECTED else str(client.status or 500)
        self._context.metrics.request_ended(self._path, status, seconds=seconds)
        if error:
            _log.info("request %s %s: %s", request_id, state, error)
        record = self._context.history.find(request_id)
        if record is not None:
            self._context.metrics.judge(steps_of(record))


def _cost(tokens: bytes) -> float:
    """Of a request, for its tenant's share: its prompt and an answer of a usual length, in tokens."""
    return len(tokens) / 4 + _USUAL_ANSWER
