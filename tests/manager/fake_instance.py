"""Stands for an instance in the manager's tests: joins, beats, serves /health, reports and leaves, as told.

Arguments as JSON: {"name", "join", "role", "url", "port", "health", "say", "exit_code", "stubborn", "children",
"workers", "maps"}; workers share what is mapped. Prints one line of JSON with its process ids once it is up. The
command line is the whole interface; host and port may come behind, as options.
"""

import asyncio
import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import time

from aiohttp import web

from memserve.core.enums import Role
from memserve.core.ids import Incarnation, InstanceId
from memserve.rpc.channel import RpcClient
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import ClusterMessage, HeartbeatRequest, JoinRequest, Load, PeerInfo


def fork_worker() -> int:
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    return pid


def map_file(path: str) -> mmap.mmap:
    with open(path, "r+b") as file:  # noqa: PTH123
        return mmap.mmap(file.fileno(), 0)


async def serve_health(host: str, port: int) -> None:
    async def health(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/health", health)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()


async def live(told: dict[str, str]) -> None:
    if told.get("port"):
        await serve_health(told.get("host", "127.0.0.1"), int(told["port"]))
    client: RpcClient[ClusterMessage] = RpcClient(told["join"], ClusterMessage)
    identity = KvIdentity(model="m", dtype="f", engine="e", backend="b", block_size=32, block_bytes=64, num_layers=1)
    name, incarnation = InstanceId(told["name"]), Incarnation(time.time_ns())
    peer = PeerInfo(instance=name, incarnation=incarnation, endpoint="tcp://127.0.0.1:9", identity=identity)
    join = JoinRequest(cluster="test", peer=peer, role=Role(told["role"]), url=told.get("url", ""), pid=os.getpid())
    reply = await client.call(join, deadline_s=5)
    while True:
        await client.call(HeartbeatRequest(instance=name, incarnation=incarnation, load=Load()), deadline_s=5)
        await asyncio.sleep(reply.heartbeat_s)


def main() -> None:
    told = json.loads(sys.argv[1])
    if "--host" in sys.argv:
        told |= {"host": sys.argv[sys.argv.index("--host") + 1], "port": sys.argv[sys.argv.index("--port") + 1]}
        told["url"] = f"http://{told['host']}:{told['port']}"
    if told.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    held = [map_file(path) for path in told.get("maps", ())]
    helpers = [subprocess.Popen(["sleep", "600"]).pid for _ in range(int(told.get("children", 0)))]
    helpers += [fork_worker() for _ in range(int(told.get("workers", 0)))]
    sys.stdout.write(told.get("say", "") + "\n" + json.dumps({"pid": os.getpid(), "helpers": helpers}) + "\n")
    sys.stdout.flush()
    if "exit_code" in told:
        sys.exit(int(told["exit_code"]))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(live(told) if told.get("join") else asyncio.sleep(600))
    del held


if __name__ == "__main__":
    main()
