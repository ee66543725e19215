"""A gateway without a model: streams tokens, says what it was asked and where prompts came from. Not a test."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from memserve.bench.study.client import StudyClient
from memserve.config import ServeConfig
from memserve.core.clock import SystemClock
from memserve.core.enums import Phase
from memserve.core.ids import InstanceId, RequestId
from memserve.gateway.server import running
from memserve.wire.messages import RequestReport


class FakeGateway:
    """Remembers requests in their order, and every switch with the number of requests before it."""

    def __init__(self, *, fails_after: int | None = None, disk_tokens: int = 0) -> None:
        self.fails_after = fails_after
        self.disk_tokens = disk_tokens
        """Of a prompt that was asked before, those that are said to come from disk the second time."""
        self.bodies: list[dict[str, Any]] = []
        self.sessions: list[str] = []
        self.switches: list[tuple[int, str]] = []
        self.configs: list[ServeConfig] = []
        self._times_asked: dict[str, int] = {}
        self._sources: dict[str, tuple[int, int]] = {}

    @asynccontextmanager
    async def served(self, config: ServeConfig) -> AsyncIterator[StudyClient]:
        self.configs.append(config)
        app = Starlette(
            routes=[
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/admin/requests/{request}", self._record),
                Route("/admin/{what}", self._switch, methods=["PUT"]),
            ]
        )
        async with running(app) as port, aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{port}"
            yield StudyClient(url=url, model="fake", http=http, clock=SystemClock(), seed=0)

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.sessions.append(request.headers.get("x-session-id", ""))
        if self.fails_after is not None and len(self.bodies) > self.fails_after:
            return JSONResponse({"error": {"message": "no active instance"}}, status_code=503)
        prompt = str(body["prompt"])
        asked = self._times_asked[prompt] = self._times_asked.get(prompt, 0) + 1
        held = len(body["prompt"]) - 8
        self._sources[request.headers["x-request-id"]] = {
            1: (0, 0), 2: (held - self.disk_tokens, self.disk_tokens) if self.disk_tokens else (0, held),
        }.get(asked, (held, 0))  # fmt: skip
        return StreamingResponse(_events(body["max_tokens"]), media_type="text/event-stream")

    async def _record(self, request: Request) -> Response:
        name = request.path_params["request"]
        dram, disk = self._sources[name]
        report = RequestReport(
            request=RequestId(name),
            instance=InstanceId("colocated-0"),
            phase=Phase.WHOLE,
            prompt_tokens=100,
            hbm_tokens=0,
            dram_tokens=dram,
            received_tokens=0,
            computed_tokens=100 - dram - disk,
            output_tokens=1,
            disk_tokens=disk,
        )
        return Response(msgspec.json.encode({"reports": [report]}), media_type="application/json")

    async def _switch(self, request: Request) -> Response:
        body = await request.json()
        self.switches.append((len(self.bodies), body[request.path_params["what"]]))
        return JSONResponse(body)


async def _events(num_tokens: int) -> AsyncIterator[bytes]:
    for number in range(num_tokens):
        choice = {"index": 0, "text": "", "token_ids": [number]}
        yield f"data: {json.dumps({'choices': [choice]})}\n\n".encode()
    yield b'data: {"choices": []}\n\ndata: [DONE]\n\n'
