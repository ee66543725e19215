"""An HTTP server as vLLM makes one of the options that instances are started with. Not a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from memserve.cluster.view import InstanceState, InstanceView
from memserve.core.enums import Role
from memserve.core.ids import Incarnation, InstanceId
from memserve.manager.child import server_options
from memserve.security.issued import issued_file
from memserve.security.secret import ClusterSecret
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import Load, PeerInfo

IDENTITY = KvIdentity(model="m", dtype="f", engine="e", backend="b", block_size=32, block_bytes=64, num_layers=1)


@asynccontextmanager
async def instance_server(app: ASGIApp, secret: ClusterSecret | None) -> AsyncIterator[int]:
    """Gives its port."""
    config = _config(app, secret)
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


def view_of(url: str) -> InstanceView:
    """As the gateway knows it."""
    peer = PeerInfo(instance=InstanceId("d0"), incarnation=Incarnation(1), endpoint="", identity=IDENTITY)
    return InstanceView(peer=peer, role=Role.DECODE, state=InstanceState.ACTIVE, url=url, load=Load())


def _config(app: ASGIApp, secret: ClusterSecret | None) -> uvicorn.Config:
    fixed: dict[str, Any] = {"port": 0, "log_config": None, "access_log": False, "lifespan": "off"}
    if secret is None:
        config = uvicorn.Config(app, **fixed)
        config.load()
        return config
    with issued_file(secret) as fd:
        options = server_options(f"/proc/self/fd/{fd}")
        names = [name.removeprefix("--").replace("-", "_") for name in options[::2]]
        given: dict[str, Any] = dict(zip(names, options[1::2], strict=True))
        given["ssl_cert_reqs"] = int(given["ssl_cert_reqs"])
        config = uvicorn.Config(app, **fixed, **given)
        config.load()
    return config
