"""What TLS costs a request from the gateway to an instance, beside plain HTTP.

python -m tests.gateway.measure_tls

Client and server are one process on one event loop (uvloop, as served), so the CPU time is that of both ends
together. "whole": 16 KiB sent, 4 KiB answered, over a connection that is kept. "stream": the same sent, 128 events
of 300 bytes answered, each by itself. "first": a request over a new connection. Both kinds alternate in one run; each
number is the median of the rounds.
"""

import asyncio
import statistics
import sys
import time

import uvloop
from starlette.types import Receive, Scope, Send

from memserve.gateway.upstream import Upstream
from memserve.security.secret import ClusterSecret
from tests.gateway.instance_server import instance_server, view_of

SECRET = ClusterSecret(b"s" * 32)
PROMPT, ANSWER, EVENT, NUM_EVENTS = b"p" * (16 << 10), b"a" * (4 << 10), b"data: " + b"e" * 292 + b"\n\n", 128
ROUNDS, REQUESTS = 15, 200


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for event in [ANSWER] if scope["path"] == "/whole" else [EVENT] * NUM_EVENTS:
        await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


async def spent(url: str, secret: ClusterSecret | None, target: str, *, keep: bool) -> float:
    """CPU microseconds of one request."""
    upstream = Upstream(secret)
    await ask(upstream, url, target, keep=keep)
    began = time.process_time()
    for _ in range(REQUESTS):
        await ask(upstream, url, target, keep=keep)
    total = time.process_time() - began
    await upstream.close()
    return total / REQUESTS * 1e6


async def ask(upstream: Upstream, url: str, target: str, *, keep: bool) -> None:
    headers = [] if keep else [(b"connection", b"close")]
    async with upstream.exchange(view_of(url), method="POST", target=target, headers=headers, body=PROMPT) as answer:
        async for _ in answer.chunks():
            pass


async def measure() -> None:
    async with instance_server(app, None) as plain, instance_server(app, SECRET) as sealed:
        kinds = (("plain", f"http://127.0.0.1:{plain}", None), ("TLS", f"https://127.0.0.1:{sealed}", SECRET))
        for name, target, keep in (("whole", "/whole", True), ("stream", "/stream", True), ("first", "/whole", False)):
            found: dict[str, list[float]] = {"plain": [], "TLS": []}
            for _ in range(ROUNDS):
                for kind, url, secret in kinds:
                    found[kind].append(await spent(url, secret, target, keep=keep))
            before, after = (statistics.median(found[kind]) for kind in ("plain", "TLS"))
            sys.stdout.write(f"{name:7} plain {before:6.0f} us, TLS {after:6.0f} us, +{after - before:.0f} us\n")


if __name__ == "__main__":
    uvloop.run(measure())
