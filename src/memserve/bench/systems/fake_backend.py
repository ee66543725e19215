"""An engine that computes nothing, for measuring what stands before it: answers of a fixed size, at once.

Child of `memserve bench gateway`; runs in memserve's own environment.
"""

import asyncio
import threading
from typing import Any

from starlette.types import Receive, Scope, Send

from memserve.bench.systems.channel import System, serve

NUM_CHUNKS = 8
_USAGE = b'"usage":{"prompt_tokens":200,"completion_tokens":8,"total_tokens":208}'
_WHOLE = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"bench","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"a b c d e f g h"},"logprobs":null,"finish_reason":"stop"}],' + _USAGE + b"}"
)
_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench","choices":[{"index":0,'
    b'"delta":{"content":" a"},"logprobs":null,"finish_reason":null}]}\n\n'
)
_INFO = (
    b'{"object":"list","data":[{"id":"bench","object":"model","created":1,"owned_by":"bench","max_model_len":8192}]}'
)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI: a chat completion to every POST, a list of models to every GET."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    if scope["method"] == "POST" and (b'"stream":true' in body or b'"stream": true' in body):
        await _start(send, b"text/event-stream")
        for _ in range(NUM_CHUNKS):
            await send({"type": "http.response.body", "body": _CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        return
    await _start(send, b"application/json")
    await send({"type": "http.response.body", "body": _WHOLE if scope["method"] == "POST" else _INFO})


async def _start(send: Send, kind: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})


class Backend:
    """The server on a thread of its own, beside the channel to the parent."""

    def open(self, _request: dict[str, Any]) -> str:
        """URL where it answers."""
        started: list[str] = []
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(_serve(started, ready)), daemon=True).start()
        ready.wait(30)
        return started[0]


async def _serve(started: list[str], ready: threading.Event) -> None:
    from memserve.gateway.server import running  # noqa: PLC0415 - its imports are the server's, not the channel's

    async with running(answer) as port:
        started.append(f"http://127.0.0.1:{port}")
        ready.set()
        await asyncio.Event().wait()


def _system() -> System:
    return System(version="", handlers={"open": Backend().open})


if __name__ == "__main__":
    serve(_system)
