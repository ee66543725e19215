"""An instance's own server, put together by vLLM's code with our middleware: who is answered, and on which routes."""

from argparse import Namespace

import httpx
import pytest
from fastapi import FastAPI
from vllm.entrypoints.serve.middleware.register import init_entrypoints_middleware

from memserve.core.errors import ConfigError
from memserve.engines.vllm.http_guard import KEY_VARIABLE, OnlyTheGateway

ARGS = Namespace(
    allowed_origins=["*"],
    allow_credentials=False,
    allowed_methods=["*"],
    allowed_headers=["*"],
    api_key=None,
    enable_request_id_headers=False,
    middleware=["memserve.engines.vllm.http_guard.OnlyTheGateway"],
)
PATHS = ("/v1/completions", "/tokenize", "/reset_prefix_cache", "/metrics")


async def test_only_who_shows_the_key_is_answered_on_any_route_but_health(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "the-key")
    app = FastAPI()
    for path in (*PATHS, "/health"):
        app.add_api_route(path, lambda: "served", methods=["GET"])
    init_entrypoints_middleware(ARGS, app, ())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://instance") as http:
        for path in PATHS:
            assert (await http.get(path)).status_code == 401
            assert (await http.get(path, headers={"Authorization": "Bearer wrong"})).status_code == 401
            assert (await http.get(path, headers={"Authorization": "Bearer the-key"})).json() == "served"
        assert (await http.get("/health")).json() == "served"


def test_without_a_key_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="is not set"):
        OnlyTheGateway(FastAPI())
