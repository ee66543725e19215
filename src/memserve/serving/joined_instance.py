"""One instance of this machine in a cluster that runs elsewhere: started, kept running, and ended when it is drained.

Owns the order: find the manager, learn what the instance has to be like, check the machine, run it, and ask the
manager how it is, once a second, for as long as it runs. A manager that does not answer is asked again: the
instance serves on, and joins the manager that comes back at the same address.

    find_cluster -> prepare_instance -> run_instance -> (drained, refused, given up, or cancelled)
"""

import asyncio
import secrets
from pathlib import Path
from typing import Protocol

import aiohttp
import msgspec

from memserve.cluster.restarts import RestartRules
from memserve.cluster.view import InstanceState
from memserve.config import ServeConfig, convert
from memserve.core.clock import SystemClock
from memserve.core.enums import Role
from memserve.core.errors import ConfigError, InstanceUnavailable, ProtocolError, SecretRefused
from memserve.core.etcd_address import is_etcd
from memserve.core.ids import InstanceId
from memserve.instance.etcd_link import gateways_in_etcd
from memserve.instance.memory_server import welcome
from memserve.manager.launch_plan import LaunchSpec, Place, one_more
from memserve.manager.launcher import InstanceEnded
from memserve.manager.local_launcher import LocalLauncher
from memserve.manager.machine import Machine
from memserve.rpc.channel import RpcClient
from memserve.security.exposure import check_exposure
from memserve.security.gateway_access import ANY_GATEWAY, GatewayAccess
from memserve.security.https import reason_of
from memserve.security.secret import ClusterSecret
from memserve.serving.growth import check_room
from memserve.serving.prepare import find_model, free_ports, log_folder
from memserve.wire.messages import ClusterMessage, MemberReply, MemberRequest, WelcomeReply

_ASK_S = 5.0
_EVERY_S = 1.0


class InstanceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`memserve instance` as typed."""

    join: str
    role: Role
    model: str = ""
    """"" takes the cluster's own."""
    name: str = ""
    """"" makes one up."""
    host: str = "127.0.0.1"
    dram: str | None = None
    secret: str = ""
    """File with the cluster's secret."""
    ca: str = ""
    """As GatewayAccess.ca."""
    engine_args: tuple[str, ...] = ()


class FoundCluster(msgspec.Struct, frozen=True, kw_only=True):
    managers: tuple[str, ...]
    """Endpoints of its cluster managers: of one, or of all that share the cluster."""
    join: str
    """Where its members are registered."""
    name: str
    config: ServeConfig


class _Join(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of a gateway's /admin/join."""

    manager: str


class InstanceWatcher(Protocol):
    """Is told what happens to the instance; must not block."""

    def became(self, state: str) -> None: ...

    def ended(self, end: InstanceEnded) -> None: ...

    def lost_manager(self, error: InstanceUnavailable) -> None: ...


async def find_cluster(join: str, access: GatewayAccess = ANY_GATEWAY) -> FoundCluster:
    """By the URL of its gateway, its manager's endpoint, or its etcd. Raises ConfigError, InstanceUnavailable."""
    managers = await _managers_of(join, access)
    told = await _first_welcome(managers, access.secret)
    config = convert(msgspec.json.decode(told.config), ServeConfig, f"settings of {managers[0]}")
    place = join if is_etcd(join) else told.join or managers[0]
    return FoundCluster(managers=managers, join=place, name=told.cluster, config=config)


def prepare_instance(options: InstanceOptions, cluster: FoundCluster, *, cache: Path) -> LaunchSpec:
    """Checked and placed; blocks. Raises ConfigError on what could not work here."""
    config = cluster.config
    check_exposure(options.host, "--host", has_secret=bool(options.secret))
    model = find_model(options.model, cache) if options.model else config.model
    config = msgspec.structs.replace(
        config,
        model=model,
        cluster=msgspec.structs.replace(config.cluster, secret=options.secret),
        pool=msgspec.structs.replace(config.pool, dram=options.dram or config.pool.dram),
        engine=msgspec.structs.replace(config.engine, args=(*config.engine.args, *options.engine_args)),
    )
    check_room(config, [options.role])
    place = Place(
        manager_endpoint=cluster.join,
        machine=Machine.here(),
        cluster=cluster.name,
        log_folder=log_folder(cache, cluster.name),
        host=options.host,
    )
    name = InstanceId(options.name or f"{options.role}-{secrets.token_hex(2)}")
    spec = one_more(config, place, name=name, role=options.role, port=free_ports(1)[0], beside=())
    # Which cores other instances of this machine run on is not known here: the kernel shares them out.
    return msgspec.structs.replace(spec, cores=(), outlives=False)


class JoinedInstance:
    """`run` once."""

    def __init__(
        self, spec: LaunchSpec, cluster: FoundCluster, *, watcher: InstanceWatcher, secret: ClusterSecret | None = None
    ) -> None:
        self._secret = secret
        self._spec = spec
        self._watcher = watcher
        self._max_restarts = cluster.config.cluster.max_restarts
        self._managers = cluster.managers
        self._client: RpcClient[ClusterMessage] = RpcClient(cluster.managers[0], ClusterMessage, secret=secret)
        self._given_up: InstanceEnded | None = None
        self._state = ""
        self._answers = True

    async def run(self) -> None:
        """Until it has been drained. Raises ConfigError when it is refused, InstanceUnavailable when it is given up.

        Nothing of it runs any more afterwards, however it ends.
        """
        launcher = LocalLauncher(
            machine=Machine.here(),
            rules=RestartRules(max_restarts=self._max_restarts),
            clock=SystemClock(),
            on_end=self._ended,
            secret=self._secret,
        )
        try:
            await self._check_name()
            await launcher.start(self._spec)
            while True:
                if await self._is_over():
                    return
                await asyncio.sleep(_EVERY_S)
        finally:
            await launcher.close()
            await self._client.close()

    async def _check_name(self) -> None:
        there = await self._ask()
        if there.state:
            raise ConfigError(
                f"{self._spec.instance} is in the cluster already ({there.state}): choose another --name, "
                f"or let that one go first with memserve drain {self._spec.instance}"
            )

    async def _is_over(self) -> bool:
        if self._given_up is not None:
            raise InstanceUnavailable(f"{self._spec.instance} is given up: {self._given_up.why}")
        try:
            reply = await self._ask()
        except InstanceUnavailable as error:
            if self._answers:
                self._watcher.lost_manager(error)
            self._answers = False
            return False
        self._answers = True
        if reply.refusal:
            raise ConfigError(f"the cluster does not take {self._spec.instance}: {reply.refusal}")
        if reply.state != self._state:
            self._state = reply.state
            self._watcher.became(reply.state)
        return reply.dismissed

    async def _ask(self) -> MemberReply:
        """The manager that answered the last time; when it does not, the next one from then on."""
        try:
            reply = await self._client.call(MemberRequest(instance=self._spec.instance), deadline_s=_ASK_S)
        except InstanceUnavailable:
            await self._client.close()
            self._managers = (*self._managers[1:], self._managers[0])
            self._client = RpcClient(self._managers[0], ClusterMessage, secret=self._secret)
            raise
        if not isinstance(reply, MemberReply):
            raise ProtocolError(f"the cluster manager answered MemberRequest with {type(reply).__name__}")
        others = tuple(manager for manager in reply.managers if manager != self._managers[0])
        self._managers = (self._managers[0], *others) if reply.managers else self._managers
        return reply

    def _ended(self, end: InstanceEnded) -> None:
        self._watcher.ended(end)
        if end.restart_in_s is None:
            self._given_up = end

    def __repr__(self) -> str:
        return f"JoinedInstance({self._spec.instance}, {self._state or InstanceState.LEFT})"


async def _managers_of(join: str, access: GatewayAccess) -> tuple[str, ...]:
    if is_etcd(join):
        return await gateways_in_etcd(join)
    return (join if join.startswith("tcp://") else await _manager_of(join, access),)


async def _first_welcome(managers: tuple[str, ...], secret: ClusterSecret | None) -> WelcomeReply:
    """Of the first that answers."""
    for manager in managers[:-1]:
        try:
            return await welcome(manager, secret)
        except InstanceUnavailable:
            continue
    return await welcome(managers[-1], secret)


async def _manager_of(url: str, access: GatewayAccess) -> str:
    """What the gateway at `url` says."""
    target, trusted = f"{url.rstrip('/')}/admin/join", access.trusted()
    try:
        timeout = aiohttp.ClientTimeout(total=_ASK_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(target, headers=access.headers(), ssl=trusted) as answer,
        ):
            if answer.status == 401:
                raise SecretRefused(f"{url} wants its cluster's secret: give the right file with --cluster-secret FILE")
            if answer.status != 200:
                raise InstanceUnavailable(f"{target} answered {answer.status}: is this a memserve gateway?")
            return msgspec.json.decode(await answer.read(), type=_Join).manager
    except (aiohttp.ClientError, TimeoutError, ValueError, msgspec.DecodeError) as error:
        access.check_trust(url, error)
        raise InstanceUnavailable(
            f"no memserve gateway answers at {url} ({reason_of(error)}): "
            "give --join the URL that `memserve serve` prints, or tcp://HOST:PORT of its manager"
        ) from error
