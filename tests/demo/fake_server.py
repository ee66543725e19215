"""A chat server without a model: its answer depends on the messages alone. Not a test."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from memserve.core.enums import Phase
from memserve.core.ids import InstanceId, RequestId
from memserve.demo.stage import Served
from memserve.gateway.server import running
from memserve.wire.messages import MovedBlocks, RequestReport

MODEL = "fake"
PREFILL, DECODE = InstanceId("prefill-0"), InstanceId("decode-0")


def reports_of(request: RequestId) -> tuple[RequestReport, ...]:
    """A hit of 128 tokens in the pool, two blocks moved, one sent back."""

    def moved(source: InstanceId, target: InstanceId, num_blocks: int) -> MovedBlocks:
        return MovedBlocks(
            source=source,
            target=target,
            path="shm",
            num_blocks=num_blocks,
            num_tokens=num_blocks * 128,
            num_bytes=num_blocks * 1000,
            num_calls=1,
            seconds=0.01,
        )

    def report(instance: InstanceId, phase: Phase, computed: int, *, moves: tuple[MovedBlocks, ...]) -> RequestReport:
        dram = 128 if phase is Phase.PREFILL else 0
        return RequestReport(
            request=request,
            instance=instance,
            phase=phase,
            prompt_tokens=200,
            hbm_tokens=0,
            dram_tokens=dram,
            received_tokens=200 - dram - computed,
            computed_tokens=computed,
            output_tokens=4,
            moved=moves,
        )

    return (
        report(PREFILL, Phase.PREFILL, 72, moves=(moved(PREFILL, DECODE, 2),)),
        report(DECODE, Phase.DECODE, 1, moves=(moved(DECODE, PREFILL, 1),)),
    )


class FakeServer:
    """Answers like vLLM; `odd` makes other answers, `tells_ids` is whether token ids come along."""

    def __init__(self, *, odd: bool = False, tells_ids: bool = True, fails: bool = False) -> None:
        self._odd = odd
        self._tells_ids = tells_ids
        self._fails = fails
        self.bodies: list[dict[str, object]] = []
        self._late: set[str] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Served]:
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/admin/requests/{request}", self._record),
            ]
        )
        async with running(app) as port:
            yield Served(url=f"http://127.0.0.1:{port}", model=MODEL)

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if self._fails:
            return JSONResponse({"error": {"message": "no active instance", "code": 503}}, status_code=503)
        digest = hashlib.blake2b(json.dumps([body["messages"], self._odd]).encode(), digest_size=4).digest()
        return StreamingResponse(self._events(tuple(digest)), media_type="text/event-stream")

    async def _events(self, ids: tuple[int, ...]) -> AsyncIterator[bytes]:
        for token in ids:
            choice = {"index": 0, "delta": {"content": f"{token} "}, "finish_reason": None}
            extra = {"token_ids": [token]} if self._tells_ids else {}
            yield _event({"choices": [choice | extra]})
            await asyncio.sleep(0)
        yield _event({"choices": [], "usage": {"prompt_tokens": 200, "completion_tokens": 4, "total_tokens": 204}})
        yield b"data: [DONE]\n\n"

    async def _record(self, request: Request) -> Response:
        """The first question comes before the decode instance has reported."""
        name = request.path_params["request"]
        reports = reports_of(RequestId(name))
        known = reports if name in self._late else reports[:1]
        self._late.add(name)
        record = {"request": name, "state": "served", "reports": known}
        return Response(msgspec.json.encode(record), media_type="application/json")


def _event(fields: dict[str, object]) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, **fields}
    return f"data: {json.dumps(chunk)}\n\n".encode()
