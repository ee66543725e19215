"""A vLLM server that computes nothing: the same routes, bodies, errors and stream, plus faults on demand.

Owns what it saw (requests, hang-ups) for tests to look at. Speaks only what the gateway relies on; the
shapes are those of vLLM 0.32.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum, auto
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from memserve.core.enums import Phase
from memserve.core.ids import InstanceId, RequestId
from memserve.wire.messages import MovedBlocks, RequestReport
from tests.fakes.generation import Generation
from tests.fakes.model import CONTEXT_LENGTH, PIECES
from tests.fakes.waiting import Changes


class Fault(Enum):
    NONE = auto()
    ANSWER_500 = auto()
    ANSWER_501 = auto()
    """What vLLM says when the model cannot do what is asked."""
    CUT = auto()
    """The connection breaks after `break_after` events, or inside a whole answer."""
    STALL = auto()
    """Nothing comes, not even headers."""
    STALL_MIDWAY = auto()
    """So many events come, then nothing."""
    DIE_INSIDE = auto()
    """So many events come, then vLLM's error event: its engine process is gone, its server is not."""
    EMPTY_STREAM = auto()
    END_EARLY = auto()
    """So many events come, and then the stream ends as if that were all."""
    OTHER_TEXT = auto()
    """As `rewrites_text`, once."""
    ERROR_EVENT = auto()
    """A stream that begins with vLLM's error event, code 500."""


class Seen(msgspec.Struct, frozen=True):
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes

    @property
    def phase(self) -> str:
        return str(self.body["kv_transfer_params"]["memserve"]["phase"])


class FakeEngine:
    """One instance's HTTP side; `app` is to be served."""

    def __init__(self, name: str, *, model: str = "tiny") -> None:
        self.name = name
        self.model = model
        self.fault = Fault.NONE
        self.faults_to_come: list[Fault] = []
        """Each completion request takes one; the list may be shared, so that whoever is asked first fails."""
        self.hold: asyncio.Event | None = None
        """When set, whole answers and streams' events after `break_after` wait for it."""
        self.report_tokens = {"hbm_tokens": 3, "dram_tokens": 4, "received_tokens": 0, "computed_tokens": 2}
        self.send_report = True
        self.tells_context_length = True
        self.adapters: dict[str, str] = {}
        """Name and folder."""
        self.rewrites_text = False
        """Chat streams say something else than their tokens, as an engine with a parser does."""
        self.on_report: Callable[[RequestReport], None] = lambda _: None
        """The cluster manager's part: told every report."""
        self.num_words = len(PIECES)
        """Tokens of a whole answer, its end not counted."""
        self.break_after = 2
        self.seen: list[Seen] = []
        self.sent: list[bytes] = []
        """Bytes of answers to completion requests."""
        self.num_hang_ups = 0
        self.changes = Changes()
        self.app = Starlette(
            routes=[
                *[Route(p, _Endpoint(self._completion)) for p in ("/v1/chat/completions", "/v1/completions")],
                Route("/{path:path}", _Endpoint(self._anything)),
            ]
        )

    async def _completion(self, scope: Scope, body: bytes, send: Send) -> None:
        if self.faults_to_come:
            self.fault = self.faults_to_come.pop(0)
        request = self._note(scope, body)
        if self.fault is Fault.STALL:
            await asyncio.Event().wait()
        status, refusal = self._refusal(scope, request)
        if refusal is not None:
            await _whole(send, status, refusal)
        elif request.get("stream"):
            await self._stream(scope, request, send)
        else:
            await self._answer(scope, request, send)

    async def _anything(self, scope: Scope, body: bytes, send: Send) -> None:
        content: Any = msgspec.json.decode(body) if body else {}
        is_model_list = scope["path"] == "/v1/models"
        if not is_model_list:
            self._note(scope, msgspec.json.encode(content))
        if self.fault is Fault.ANSWER_500:
            await _whole(send, 500, _error("boom", "InternalServerError", 500))
        elif is_model_list:
            card = {"id": self.model, "object": "model"}
            card |= {"max_model_len": CONTEXT_LENGTH} if self.tells_context_length else {}
            adapters = [{"id": name, "root": path, "parent": self.model} for name, path in self.adapters.items()]
            await _whole(send, 200, {"object": "list", "data": [card, *adapters]})
        else:
            query = scope["query_string"].decode()
            await _whole(send, 200, {"engine": self.name, "path": scope["path"], "query": query, "got": content})

    def _note(self, scope: Scope, body: bytes) -> dict[str, Any]:
        request: dict[str, Any] = msgspec.json.decode(body)
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        self.seen.append(Seen(scope["path"], headers, request, body))
        self.changes.happened()
        return request

    def _refusal(self, scope: Scope, request: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
        model, limit = request.get("model"), request.get("max_tokens", 16)
        if self.fault is Fault.ANSWER_500:
            return 500, _error("boom", "InternalServerError", 500)
        if self.fault is Fault.ANSWER_501:
            return 501, _error("no chat here", "NotImplementedError", 501)
        if model not in (None, self.model, "an-adapter", *self.adapters):
            text = f"The model `{model}` does not exist. Valid aliases: {self.model}."
            return 404, _error(text, "NotFoundError", 404, "model")
        if not isinstance(limit, int) or limit < 1:
            return 400, _error(f"max_tokens must be at least 1, got {limit}.", "BadRequestError", 400, "max_tokens")
        wanted = "messages" if "chat" in scope["path"] else "prompt"
        given = request.get(wanted)
        is_chat = isinstance(given, list) and all(isinstance(m, dict) for m in given)
        if not (is_chat if wanted == "messages" else isinstance(given, list | str)):
            return 400, _error(f"1 validation error: body.{wanted}", "Bad Request", 400, wanted)
        return 200, None

    async def _answer(self, scope: Scope, request: dict[str, Any], send: Send) -> None:
        if self.hold is not None:
            await self.hold.wait()
        run = Generation(request, num_words=self.num_words, is_chat="chat" in scope["path"])
        steps = list(run.steps())
        answer = run.whole(self._head(scope), steps) | {"score": 1e-7, "kv_transfer_params": self._kv_params(request)}
        body = msgspec.json.encode(answer)
        self.sent.append(body)
        await _whole(send, 200, answer, cut=self.fault is Fault.CUT)

    def _head(self, scope: Scope) -> dict[str, Any]:
        asked = dict(scope["headers"]).get(b"x-request-id", b"?").decode()
        prefix = "chatcmpl" if "chat" in scope["path"] else "cmpl"
        return {"id": f"{prefix}-{asked}", "created": 1, "model": self.model}

    async def _stream(self, scope: Scope, request: dict[str, Any], send: Send) -> None:
        await _start(send, 200, b"text/event-stream; charset=utf-8")
        if self.fault is not Fault.EMPTY_STREAM:
            for number, event in enumerate(self._events(scope, request)):
                await self._pause(number)
                self.sent.append(event)
                self.changes.happened()
                await send({"type": "http.response.body", "body": event, "more_body": True})
                await asyncio.sleep(0)  # sending to a client that left does not suspend
            self._kv_params(request)
        await send({"type": "http.response.body", "body": b""})

    async def _pause(self, number: int) -> None:
        if number == self.break_after and self.fault is Fault.CUT:
            raise ConnectionResetError("cut on purpose")
        if number == self.break_after and self.fault is Fault.STALL_MIDWAY:
            await asyncio.Event().wait()
        if number == self.break_after and self.hold is not None:
            await self.hold.wait()

    def _events(self, scope: Scope, request: dict[str, Any]) -> Iterator[bytes]:
        if self.fault is Fault.ERROR_EVENT:
            yield from (_event(_error("engine dead", "InternalServerError", 500)), b"data: [DONE]\n\n")
            return
        run = Generation(request, num_words=self.num_words, is_chat="chat" in scope["path"])
        is_other = self.rewrites_text or self.fault is Fault.OTHER_TEXT
        for number, event in enumerate(run.events(self._head(scope))):
            if number == self.break_after and self.fault is Fault.DIE_INSIDE:
                yield from (_event(_error("engine dead", "InternalServerError", 500)), b"data: [DONE]\n\n")
                return
            if is_other and event["choices"] and "delta" in event["choices"][0]:
                event["choices"][0]["delta"]["content"] = event["choices"][0]["delta"]["content"].upper()
            if number == self.break_after and self.fault is Fault.END_EARLY:
                return
            yield _event(event)
        yield from (b": keep-alive\n\n", b"data: [DONE]\n\n")

    def _kv_params(self, request: dict[str, Any]) -> dict[str, Any] | None:
        asked = (request.get("kv_transfer_params") or {}).get("memserve")
        if asked is None or not self.send_report:
            return None
        report = RequestReport(
            request=RequestId(asked["request"]),
            instance=InstanceId(self.name),
            phase=Phase(asked["phase"]),
            prompt_tokens=9,
            output_tokens=1,
            moved=self._moved(asked),
            **self.report_tokens,
        )
        self.on_report(report)
        return {"memserve": msgspec.to_builtins(report)}

    def _moved(self, asked: dict[str, Any]) -> tuple[MovedBlocks, ...]:
        if asked["phase"] != Phase.PREFILL:
            return ()
        target = InstanceId(asked["peer"]["instance"])
        size = {"num_blocks": 2, "num_tokens": 8, "num_bytes": 4096, "num_calls": 1}
        return (MovedBlocks(source=InstanceId(self.name), target=target, path="shm", seconds=0.002, **size),)

    def hang_up(self) -> None:
        self.num_hang_ups += 1
        self.changes.happened()


class _Endpoint:
    """ASGI app that runs `work` and gives it up when the client hangs up, as vLLM does."""

    def __init__(self, work: Callable[[Scope, bytes, Send], Awaitable[None]]) -> None:
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        engine = self._work.__self__  # type: ignore[attr-defined]
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        work = asyncio.ensure_future(self._work(scope, body, send))
        gone = asyncio.ensure_future(receive())
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            engine.hang_up()
        for task in (work, gone):
            task.cancel()
        await asyncio.wait({work, gone})
        if not work.cancelled() and work.exception() is not None:
            raise work.exception()  # type: ignore[misc]


async def _start(send: Send, status: int, kind: bytes, length: int | None = None) -> None:
    headers = [(b"content-type", kind), (b"x-engine", b"fake")]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _whole(send: Send, status: int, content: Any, *, cut: bool = False) -> None:
    body = msgspec.json.encode(content)
    await _start(send, status, b"application/json", len(body))
    if cut:
        await send({"type": "http.response.body", "body": body[:20], "more_body": True})
        raise ConnectionResetError("cut on purpose")
    await send({"type": "http.response.body", "body": body})


def _event(content: Any) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def _error(message: str, kind: str, code: int, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
