"""Stands for vLLM's server in tests that start whole clusters: real process, pool and membership, no model.

Takes vLLM's command line. With --kv-transfer-config it opens a MemPool and joins the cluster as the connector
would; its answers depend on the messages alone, so any two of these servers give the same tokens.
FAKE_VLLM in the environment asks for trouble: "die-<instance>" ends that instance with an error while it starts,
"stall" makes answers never come, "stubborn" ignores SIGTERM.
"""

import argparse
import asyncio
import hashlib
import json
import os
import signal
import ssl
from contextlib import ExitStack
from typing import Any

from aiohttp import web

from memserve import MemPool
from memserve.config import Network
from memserve.core.enums import SERVING_ROLES, Phase, Role
from memserve.core.ids import InstanceId, RequestId
from memserve.instance.guarded import be_killed, tell_guard
from memserve.security.secret import read_secret
from memserve.wire.messages import Load, RequestReport

TROUBLE = os.environ.get("FAKE_VLLM", "")


class Server:
    def __init__(self, connector: dict[str, Any] | None, pool: MemPool | None) -> None:
        self._connector = connector
        self._pool = pool

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self.health)
        app.router.add_post("/v1/chat/completions", self.chat)
        return app

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if TROUBLE == "stall":
            await asyncio.Event().wait()
        ids = tuple(hashlib.blake2b(json.dumps(body["messages"]).encode(), digest_size=8).digest())
        self._report(body)
        if not body.get("stream"):
            return web.json_response(_answer(ids[:1]))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for token in ids:
            choice = {"index": 0, "delta": {"content": f"{token} "}, "finish_reason": None, "token_ids": [token]}
            await response.write(_event({"choices": [choice]}))
        usage = {"prompt_tokens": 300, "completion_tokens": len(ids), "total_tokens": 300 + len(ids)}
        await response.write(_event({"choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _report(self, body: dict[str, Any]) -> None:
        if self._pool is None or self._connector is None:
            return
        asked = body["kv_transfer_params"]["memserve"]
        self._pool.report(
            RequestReport(
                request=RequestId(asked["request"]),
                instance=InstanceId(self._connector["instance"]),
                phase=Phase(asked["phase"]),
                prompt_tokens=300,
                hbm_tokens=0,
                dram_tokens=0,
                received_tokens=0,
                computed_tokens=300,
                output_tokens=1,
            )
        )


def _answer(ids: tuple[int, ...]) -> dict[str, Any]:
    message = {"role": "assistant", "content": " ".join(map(str, ids))}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake", "choices": choices}


def _event(fields: dict[str, Any]) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake", **fields}
    return f"data: {json.dumps(chunk)}\n\n".encode()


def _join(connector: dict[str, Any]) -> MemPool:
    pool = MemPool(
        instance=connector["instance"],
        block_size=32,
        block_bytes=1024,
        dram_bytes=1 << 20,
        cluster=connector["cluster"],
        network=Network(secret=read_secret(connector["secret"]) if connector["secret"] else None),
    )
    role = Role(connector["role"])
    pool.membership.join(
        connector["join"],
        cluster=connector["cluster"],
        role=role,
        url=connector["url"],
        load=lambda: Load(pool=pool.stats().tiers),
        can_play=SERVING_ROLES,
        dismissed=tell_guard,
        fenced=be_killed,
    )
    return pool


def _tls(told: argparse.Namespace) -> ssl.SSLContext | None:
    """As uvicorn makes it of vLLM's options."""
    if not told.ssl_certfile:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(told.ssl_certfile, told.ssl_keyfile)
    context.verify_mode = ssl.VerifyMode(told.ssl_cert_reqs)
    context.load_verify_locations(told.ssl_ca_certs)
    return context


async def _serve(told: argparse.Namespace, server: Server) -> None:
    stop = asyncio.Event()
    react = (lambda: None) if TROUBLE == "stubborn" else stop.set
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, react)
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, told.host, told.port, ssl_context=_tls(told)).start()
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kv-transfer-config", type=json.loads)
    for name in ("--ssl-certfile", "--ssl-keyfile", "--ssl-ca-certs"):
        parser.add_argument(name)
    parser.add_argument("--ssl-cert-reqs", type=int, default=int(ssl.CERT_NONE))
    told, _ = parser.parse_known_args()
    connector = told.kv_transfer_config and told.kv_transfer_config["kv_connector_extra_config"]
    if connector and f"die-{connector['instance']}" == TROUBLE:
        raise ValueError("No available memory for the cache blocks.")
    with ExitStack() as stack:
        pool = stack.enter_context(_join(connector)) if connector else None
        asyncio.run(_serve(told, Server(connector, pool)))


if __name__ == "__main__":
    main()
