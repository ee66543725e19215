"""One simulated instance: vLLM's command line and HTTP around a ChaosEngine. Not a test.

Takes the options that `memserve instance` gives to vLLM's server, opens the pool and joins as the connector would.
Speaks /v1/completions for one prompt of token ids: whole answers and streams, with the tokens beside the text.
"""

import argparse
import asyncio
import itertools
import json
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from memserve.config import ConnectorConfig, convert, parse_disk
from memserve.core.enums import SERVING_ROLES, Phase
from memserve.core.ids import RequestId
from memserve.core.notation import parse_size
from memserve.instance.guarded import be_killed, tell_guard
from memserve.instance.mempool import MemPool
from memserve.wire.messages import RequestParams, RequestReport
from tests.chaos.engine import ChaosEngine
from tests.chaos.paged import BLOCK_BYTES, BLOCK_SIZE

SMALLER = 64
"""A simulated model's KV is so much smaller than what the pool's settings are made for."""
CONTEXT_LENGTH = 4096
_CONTEXT_TOKENS = 64


class Server:
    def __init__(self, engine: ChaosEngine, *, model: str, tokenizer: Tokenizer) -> None:
        self._engine = engine
        self._model = model
        self._tokenizer = tokenizer
        self._numbers = itertools.count()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/completions", self.complete)
        return app

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        card = {"id": self._model, "object": "model", "max_model_len": CONTEXT_LENGTH}
        return web.json_response({"object": "list", "data": [card]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt, count = body["prompt"], int(body.get("max_tokens", 16))
        name = request.headers.get("X-Request-Id", f"alone-{next(self._numbers)}")
        told = (body.get("kv_transfer_params") or {}).get("memserve")
        params = convert(told, RequestParams, "kv_transfer_params.memserve") if told else None
        params = params or RequestParams(request=RequestId(name), phase=Phase.WHOLE)
        tokens: asyncio.Queue[tuple[int, RequestReport | None]] = asyncio.Queue(count)
        loop = asyncio.get_running_loop()
        key = self._engine.submit(
            prompt, count, params, lambda *told: loop.call_soon_threadsafe(tokens.put_nowait, told)
        )
        answer = _Answer(body, model=self._model, name=f"cmpl-{name}", text=self._detokenizer(prompt))
        try:
            if body.get("stream"):
                return await self._stream(request, answer, tokens, count)
            events = [await tokens.get() for _ in range(count)]
            return web.json_response(answer.whole(events))
        finally:
            self._engine.abort(key)

    async def _stream(
        self, request: web.Request, answer: "_Answer", tokens: asyncio.Queue[Any], count: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for number in range(1, count + 1):
            token, _ = await tokens.get()
            await response.write(_event(answer.event(token, is_first=number == 1, is_last=number == count)))
        if (answer.body.get("stream_options") or {}).get("include_usage"):
            await response.write(_event(answer.usage_event(count)))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _detokenizer(self, prompt: list[int]) -> Any:
        stream = DecodeStream(ids=prompt[-_CONTEXT_TOKENS:], skip_special_tokens=True)
        return lambda token: stream.step(self._tokenizer, token) or ""


class _Answer:
    """The JSON of one answer, in vLLM's form."""

    def __init__(self, body: dict[str, Any], *, model: str, name: str, text: Any) -> None:
        self.body = body
        self._text = text
        self._head = {"id": name, "object": "text_completion", "created": int(time.time()), "model": model}
        self._with_ids = bool(body.get("return_token_ids"))

    def event(self, token: int, *, is_first: bool, is_last: bool) -> dict[str, Any]:
        choice = {
            "index": 0,
            "text": self._text(token),
            "logprobs": None,
            "finish_reason": "length" if is_last else None,
            "stop_reason": None,
            "prompt_token_ids": self.body["prompt"] if is_first and self._with_ids else None,
            "token_ids": [token] if self._with_ids else None,
        }
        return {**self._head, "choices": [choice]}

    def usage_event(self, count: int) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": self._usage(count)}

    def whole(self, events: list[tuple[int, RequestReport | None]]) -> dict[str, Any]:
        tokens, report = [token for token, _ in events], events[-1][1]
        choice = {
            "index": 0,
            "text": "".join(map(self._text, tokens)),
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": tokens if self._with_ids else None,
            "prompt_token_ids": self.body["prompt"] if self._with_ids else None,
        }
        params = {"memserve": msgspec.to_builtins(report)} if report is not None else None
        return {
            **self._head,
            "choices": [choice],
            "usage": self._usage(len(tokens)),
            "kv_transfer_params": params,
        }

    def _usage(self, count: int) -> dict[str, Any]:
        prompt = len(self.body["prompt"])
        details = {"prompt_tokens_details": {"cached_tokens": 0}}
        return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count, **details}


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n".encode()


def _pool(config: ConnectorConfig) -> MemPool:
    disk = parse_disk(config.disk, "disk")
    return MemPool(
        instance=config.instance,
        block_size=BLOCK_SIZE,
        block_bytes=BLOCK_BYTES,
        dram_bytes=parse_size(config.dram, "dram") // SMALLER,
        cluster=config.cluster,
        paths=config.paths,
        disk=disk,
        marks=config.marks,
        keep=config.keep,
    )


async def _serve(port: int, server: Server) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--kv-transfer-config", type=json.loads, required=True)
    told, _ = parser.parse_known_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    extra = told.kv_transfer_config["kv_connector_extra_config"]
    config = convert(extra, ConnectorConfig, "kv_connector_extra_config")
    tokenizer = Tokenizer.from_file(str(Path(told.model) / "tokenizer.json"))
    with _pool(config) as pool:
        engine = ChaosEngine(pool, caching=config.caching, transfer=config.transfer)
        pool.membership.join(
            config.join,
            cluster=config.cluster,
            role=config.role,
            url=config.url,
            load=engine.scheduler.load,
            can_play=SERVING_ROLES,
            dismissed=tell_guard,
            fenced=be_killed,
        )
        try:
            asyncio.run(_serve(told.port, Server(engine, model=told.served_model_name, tokenizer=tokenizer)))
        finally:
            engine.close()
