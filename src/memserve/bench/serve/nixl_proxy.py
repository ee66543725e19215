"""A minimal proxy before one prefill and one decode vLLM with NixlConnector and `bidirectional_kv_xfer`.

    client -> prefill (one token; reads back what the last turn's decode left) -> decode (the whole answer) -> client

vLLM says where a decode's KV can be read back in whole answers only, not in streams, so the decode instance is asked
for a whole one, and the client gets the prefill's token at once and all others together: times to the first and to
the last token are what a stream would show, those in between are not. Owns what each session's last answer said.
For `memserve bench serve`; one process, `python -m memserve.bench.serve.nixl_proxy PORT PREFILL_URL DECODE_URL`.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from memserve.bench.serve.player import REQUEST_DEADLINE_S, SESSION_HEADER

_FIRST_TURN = {"do_remote_decode": True, "do_remote_prefill": False}
_KV = "kv_transfer_params"


class Upstreams:
    """The two engines, and what they said of each session. Sessions are few: nothing is dropped."""

    def __init__(self, *, prefill: str, decode: str) -> None:
        self._prefill = prefill
        self._decode = decode
        self._last: dict[str, dict[str, Any]] = {}
        self._http: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def running(self, _app: Starlette) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=REQUEST_DEADLINE_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as self._http:
            yield

    async def complete(self, request: Request) -> Response:
        body = msgspec.json.decode(await request.body(), type=dict[str, Any])
        session = request.headers.get(SESSION_HEADER, "")
        return StreamingResponse(self._events(body, session), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any], session: str) -> AsyncIterator[bytes]:
        whole = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
        try:
            first = await self._ask(self._prefill, whole | {"max_tokens": 1, _KV: self._last.pop(session, _FIRST_TURN)})
            yield _event({"choices": [{"index": 0, "text": "", "token_ids": first["choices"][0]["token_ids"]}]})
            answer = await self._ask(self._decode, whole | {_KV: first.get(_KV)})
        except (aiohttp.ClientError, TimeoutError, LookupError) as error:
            yield _event({"error": {"message": f"{type(error).__name__}: {error}"}})
            return
        if answer.get(_KV):
            self._last[session] = answer[_KV]
        choice = answer["choices"][0]
        rest = {"index": 0, "text": choice["text"], "token_ids": choice["token_ids"][1:]}
        yield _event({"choices": [rest]})
        yield _event({"choices": [], "usage": answer["usage"]})
        yield b"data: [DONE]\n\n"

    async def _ask(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        assert self._http is not None  # noqa: S101 - inside `running`
        async with self._http.post(f"{url}/v1/completions", json=body) as answer:
            text = await answer.read()
            if answer.status != 200:
                raise aiohttp.ClientPayloadError(f"{url} answered {answer.status}: {text[:300].decode()}")
            return msgspec.json.decode(text, type=dict[str, Any])


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


async def _health(_: Request) -> Response:
    return Response()


def make_app(*, prefill: str, decode: str) -> Starlette:
    upstreams = Upstreams(prefill=prefill, decode=decode)
    return Starlette(
        routes=[Route("/health", _health), Route("/v1/completions", upstreams.complete, methods=["POST"])],
        lifespan=upstreams.running,
    )


if __name__ == "__main__":
    _port, _prefill_url, _decode_url = sys.argv[1:]
    uvicorn.run(
        make_app(prefill=_prefill_url, decode=_decode_url), host="127.0.0.1", port=int(_port), log_level="warning"
    )
