"""A whole gateway on loopback: fake engines under real HTTP servers, the real Scheduler, a scripted cluster."""

from array import array
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from types import MappingProxyType
from typing import Any

import aiohttp
import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.config import GatewaySettings, TenantSettings
from memserve.core.clock import SystemClock
from memserve.core.enums import DataPath, Role, Tier
from memserve.core.errors import ConfigError, InstanceUnavailable
from memserve.core.ids import Epoch, Incarnation, InstanceId, PinId, RequestId
from memserve.gateway.app import create_app
from memserve.gateway.context import GatewayContext
from memserve.gateway.detokenizer import Detokenizer
from memserve.gateway.metrics import GatewayMetrics
from memserve.gateway.records import RequestHistory
from memserve.gateway.reports import ReportLog
from memserve.gateway.served_model import ServedModel
from memserve.gateway.server import running
from memserve.gateway.switches import Switches
from memserve.gateway.tenants import Tenants
from memserve.manager.operations import Operation, OperationKind, Operations
from memserve.pool.pins import pin_id
from memserve.scheduler.cost_model import PathTerms
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.scheduler import Scheduler
from memserve.security.secret import ClusterSecret
from memserve.wire.identity import KvIdentity, Namespace
from memserve.wire.messages import Load, PathCheck, PeerInfo, PeerPath, Pinned, ResizeReply, TierStats
from tests.fakes.engine import FakeEngine, Fault
from tests.fakes.generation import Generation
from tests.fakes.model import PIECES, TOKENIZER
from tests.fakes.waiting import Changes

IDENTITY = KvIdentity(
    model="tiny", dtype="float32", engine="fake", backend="none", block_size=4, block_bytes=64, num_layers=1
)
BLOCK_SIZE = 4


class ScriptedCluster:
    """The cluster manager's side: a view that tests change, and the faults and commands that were told."""

    endpoint = "tcp://127.0.0.1:7000"
    path_checks: tuple[PathCheck, ...] = ()
    failures: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.view = ClusterView()
        self.operations = Operations()
        self.refusal = ""
        """What every command is refused with."""
        self.faults: list[tuple[str, str]] = []
        self.restarts_at_once = False
        """An instance with a fault is back before anybody else is asked."""
        self.changes = Changes()

    def request_failed(self, instance: InstanceId, incarnation: Incarnation, why: str) -> None:
        self.faults.append((instance, why))
        if self.restarts_at_once:
            self.restart(instance)
        self.changes.happened()

    async def drain(self, instance: InstanceId) -> Operation:
        return self._begin(OperationKind.DRAIN, instance, "finishing")

    async def scale(self, wanted: Mapping[Role, int]) -> tuple[Operation, ...]:
        return tuple(self._begin(OperationKind.START, InstanceId(f"{role}-{n}"), "") for role, n in wanted.items())

    async def change_role(self, instance: InstanceId, role: Role) -> Operation:
        return self._begin(OperationKind.ROLE, instance, f"is {role}")

    def _begin(self, kind: OperationKind, instance: InstanceId, step: str) -> Operation:
        if self.refusal:
            raise ConfigError(self.refusal)
        return self.operations.begin(kind, instance, step)

    def add(self, name: str, role: Role, url: str) -> None:
        identity = PeerInfo(
            instance=InstanceId(name), incarnation=Incarnation(1), endpoint=f"tcp://{name}", identity=IDENTITY
        )
        stats = TierStats(tier=Tier.DRAM, num_blocks=8, num_free=5, num_reserved=1, num_cached=2, num_leased=1)
        load = Load(num_running=1, num_waiting=2, pool=(stats,))
        view = InstanceView(peer=identity, role=role, url=url, state=InstanceState.ACTIVE, load=load)
        self._become((*self.view.instances, view))

    def remove(self, name: str) -> None:
        self._become(tuple(i for i in self.view.instances if i.instance != name))

    def restart(self, name: str) -> None:
        """A new incarnation takes the place of the old one."""
        peers = {
            i.instance: msgspec.structs.replace(i.peer, incarnation=i.incarnation + 1) for i in self.view.instances
        }
        self._become(
            tuple(
                msgspec.structs.replace(i, peer=peers[i.instance]) if i.instance == name else i
                for i in self.view.instances
            )
        )

    def set_state(self, name: str, state: InstanceState) -> None:
        self._become(
            tuple(msgspec.structs.replace(i, state=state) if i.instance == name else i for i in self.view.instances)
        )

    def _become(self, instances: tuple[InstanceView, ...]) -> None:
        self.view = ClusterView(epoch=Epoch(self.view.epoch + 1), instances=instances)


class NotedReleases:
    """ReleaseClient that writes down what was released."""

    def __init__(self) -> None:
        self.released: list[tuple[str, RequestId]] = []
        self.reachable = True
        self.changes = Changes()

    async def release(self, *, endpoint: str, request: RequestId, deadline_s: float) -> None:
        assert deadline_s > 0
        self.released.append((endpoint, request))
        self.changes.happened()
        if not self.reachable:
            raise InstanceUnavailable(f"{endpoint} is away")


class ScriptedPools:
    """PoolControl over pools of 64 bytes a block: what was asked, and what every answer is.

    Instances of `holders` have every prompt cached.
    """

    def __init__(self) -> None:
        self.holders: set[str] = set()
        self.held: dict[str, dict[PinId, Pinned]] = {}
        self.asked: list[tuple[str, int]] = []
        self.refusal: Exception | None = None

    async def resize(self, peer: PeerInfo, *, num_bytes: int) -> ResizeReply:
        self.asked.append((peer.instance, num_bytes))
        if self.refusal is not None:
            raise self.refusal
        before, after = (
            TierStats(tier=Tier.DRAM, num_blocks=n, num_free=n, num_reserved=0, num_cached=0, num_leased=0)
            for n in (8, num_bytes // 64)
        )
        return ResizeReply(block_bytes=64, before=before, after=after)

    async def pin(self, peer: PeerInfo, *, tokens: bytes, namespace: Namespace) -> Pinned:
        if self.refusal is not None and peer.instance in self.holders:
            raise self.refusal
        num_tokens = len(tokens) // 4 // BLOCK_SIZE * BLOCK_SIZE
        pinned = Pinned(pin=pin_id(tokens, namespace), num_tokens=num_tokens)
        if peer.instance not in self.holders:
            return pinned
        pinned = msgspec.structs.replace(pinned, num_pinned_tokens=num_tokens, num_blocks=num_tokens // BLOCK_SIZE)
        return self.held.setdefault(peer.instance, {}).setdefault(pinned.pin, pinned)

    async def unpin(self, peer: PeerInfo, *, pin: PinId) -> bool:
        if self.refusal is not None:
            raise self.refusal
        return self.held.get(peer.instance, {}).pop(pin, None) is not None

    async def pins(self, peer: PeerInfo) -> tuple[Pinned, ...]:
        return tuple(self.held.get(peer.instance, {}).values())

    async def paths(self, peer: PeerInfo, *, others: tuple[PeerInfo, ...]) -> tuple[PeerPath, ...]:
        if self.refusal is not None:
            raise self.refusal
        return tuple(PeerPath(peer=o.instance, path=DataPath.NIXL) for o in others)


class CharacterTokens:
    """PromptTokenizer with a token a character of the prompt's JSON."""

    async def tokens(self, *, path: str, body: Mapping[str, Any]) -> bytes:
        prompt = msgspec.json.encode(body.get("messages", body.get("prompt")))
        return array("i", list(prompt)).tobytes()


class Rig:
    def __init__(
        self, *, settings: GatewaySettings, tenants: tuple[TenantSettings, ...], secret: ClusterSecret | None
    ) -> None:
        self.engines: dict[str, FakeEngine] = {}
        self.cluster = ScriptedCluster()
        self.releases = NotedReleases()
        self.pools = ScriptedPools()
        self._names = count()
        self.url = ""
        self.http: aiohttp.ClientSession
        metrics = GatewayMetrics()
        metrics.show_cluster(lambda: self.cluster.view)
        history = RequestHistory(clock=SystemClock())
        self.context = GatewayContext(
            settings=settings,
            base_models=frozenset({"tiny"}),
            model=ServedModel(detokenizer=Detokenizer(TOKENIZER)),
            scheduler=Scheduler(
                block_size=BLOCK_SIZE,
                policy="prompt-tree",
                clock=SystemClock(),
                random=Random(1),
                pulls=PullPolicy(path=PathTerms(latency_s=0.0, bytes_per_s=1e9)),
            ),
            cluster=self.cluster,
            elasticity=self.cluster,
            tokenizer=CharacterTokens(),
            releases=self.releases,
            pools=self.pools,
            history=history,
            metrics=metrics,
            reports=ReportLog(history=history, metrics=metrics),
            tenants=Tenants(tenants),
            switches=Switches(),
            secret=secret,
        )
        metrics.follow(self.context.scheduler)

    def engine(self, name: str) -> FakeEngine:
        return self.engines[name]

    def phases(self, name: str) -> list[str]:
        return [s.phase for s in self.engines[name].seen if "kv_transfer_params" in s.body]

    async def post(self, body: Any, *, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any]:
        """Status and decoded JSON."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        async with self.http.post(
            self.url + path, data=data, headers={"content-type": "application/json", **headers}
        ) as response:
            return response.status, msgspec.json.decode(await response.read())

    async def stream(self, body: dict[str, Any], *, path: str = "/v1/chat/completions", **headers: str) -> bytes:
        """The whole stream's bytes."""
        async with self.http.post(self.url + path, json={**body, "stream": True}, headers=headers) as response:
            assert response.status == 200, await response.text()
            assert response.headers["content-type"].startswith("text/event-stream")
            return await response.read()

    async def ask(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """As `plain_answer`, through the gateway."""
        name = f"asked-{next(self._names)}"
        if body.get("stream"):
            answer = events_of(await self.stream(body, path=path, **{"x-request-id": name}))
        else:
            status, whole = await self.post(body, path=path, **{"x-request-id": name})
            assert status == 200, whole
            answer = [whole]
        assert all("id" in event for event in answer), answer[-1]
        return [event | {"id": event["id"].replace(name, "asked")} for event in answer]

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.http.get(self.url + path) as response:
            body = await response.read()
            return response.status, msgspec.json.decode(body) if body else None

    async def metric(self, line: str) -> float:
        """Value of the sample that starts with `line`; 0 when there is none."""
        async with self.http.get(self.url + "/metrics") as response:
            text = await response.text()
        return sum(float(row.rsplit(" ", 1)[1]) for row in text.splitlines() if row.startswith(line))


class LoopbackServer:
    """One real HTTP server for many apps, each under a path of its own: starting one a test takes too long."""

    def __init__(self) -> None:
        self.url = ""
        self._apps: dict[str, ASGIApp] = {}
        self._names = count()

    def mount(self, app: ASGIApp) -> str:
        """URL of the app."""
        name = f"app{next(self._names)}"
        self._apps[name] = app
        return f"{self.url}/{name}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        _, name, rest = scope["path"].split("/", 2)
        raw = b"/" + scope["raw_path"].split(b"/", 2)[2]
        await self._apps[name]({**scope, "path": "/" + rest, "raw_path": raw}, receive, send)


class Rigs:
    """Makes rigs on one server."""

    def __init__(self, server: LoopbackServer) -> None:
        self._server = server

    @asynccontextmanager
    async def __call__(
        self,
        *,
        prefill: int = 1,
        decode: int = 1,
        colocated: int = 0,
        flexible: int = 0,
        deadline_s: float = 30.0,
        tenants: tuple[TenantSettings, ...] = (),
        bounds: Mapping[str, int] = MappingProxyType({}),
        retry_reserve: int = 100,
        secret: ClusterSecret | None = None,
    ) -> AsyncIterator[Rig]:
        """Engines p0.., d0.., c0.., f0.. behind a gateway."""
        settings = GatewaySettings(request_deadline_s=deadline_s, retry_reserve=retry_reserve, **bounds)
        made = Rig(settings=settings, tenants=tenants, secret=secret)
        roles = {
            "p": (Role.PREFILL, prefill),
            "d": (Role.DECODE, decode),
            "c": (Role.COLOCATED, colocated),
            "f": (Role.FLEXIBLE, flexible),
        }
        for letter, (role, number) in roles.items():
            for name in (f"{letter}{i}" for i in range(number)):
                engine = made.engines[name] = FakeEngine(name)
                engine.on_report = made.context.reports.ingest
                made.cluster.add(name, role, self._server.mount(engine.app))
        app = create_app(made.context)
        made.url = self._server.mount(app)
        async with app.router.lifespan_context(app), aiohttp.ClientSession() as made.http:
            yield made


def plain_answer(path: str, body: dict[str, Any], *, num_words: int = len(PIECES)) -> list[dict[str, Any]]:
    """What one engine without a gateway says: the JSON of its events, or of its one answer."""
    is_chat = "chat" in path
    run = Generation(body, num_words=num_words, is_chat=is_chat)
    head = {"id": f"{'chatcmpl' if is_chat else 'cmpl'}-asked", "created": 1, "model": "tiny"}
    return list(run.events(head)) if body.get("stream") else [run.whole(head, list(run.steps()))]


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """JSON of all events; the stream ends properly."""
    assert stream.endswith(b"data: [DONE]\n\n")
    return [msgspec.json.decode(e[6:]) for e in stream.split(b"\n\n") if e.startswith(b"data: {")]


@asynccontextmanager
async def serving() -> AsyncIterator[LoopbackServer]:
    server = LoopbackServer()
    async with running(server) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server


def fail_first(cluster: Rig, letter: str, *faults: Fault) -> None:
    """The first ones of these that are asked fail, whichever they are; all others work."""
    to_come = list(faults)
    for name, engine in cluster.engines.items():
        if name.startswith(letter):
            engine.faults_to_come = to_come


def chat(text: str = "hello there, how are you?", **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}
