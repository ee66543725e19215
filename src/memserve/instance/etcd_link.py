"""An instance's membership written down in etcd: what it would tell one cluster manager, for all gateways to read.

Owns this process's lease, its records and a copy of the cluster's state. Answers the messages of a member as a
manager would, so that whoever speaks for the instance need not know where membership is kept. Reports go to every
gateway; each takes what it has asked for.

    first call connects -> calls -> close

A lease that has ended is an answer, too: this life is not known any more. When others outlived it, it was this
member alone that nobody heard of, and its life must not go on; when all leases have ended, etcd stood still.
"""

import asyncio
import logging

import msgspec

from memserve.cluster.joining import check_newest, name_taken, taken_for_dead
from memserve.core.enums import Role
from memserve.core.errors import (
    ConfigError,
    DeadlineExceeded,
    InstanceUnavailable,
    LeaseLost,
    MemserveError,
    ProtocolError,
)
from memserve.core.etcd_address import parse_etcd
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.rpc.channel import RpcClient
from memserve.rpc.etcd import Delete, Entry, EtcdClient, Put
from memserve.rpc.etcd_mirror import EtcdMirror, read_record
from memserve.security.secret import ClusterSecret
from memserve.wire.messages import (
    AckReply,
    ClusterMessage,
    DeadInstance,
    DrainRequest,
    HeartbeatReply,
    HeartbeatRequest,
    JoinReply,
    JoinRequest,
    LeaveRequest,
    PeerInfo,
    ReportRequest,
)
from memserve.wire.roster import (
    GATEWAYS,
    LOADS,
    MEMBER_TTL_S,
    MEMBERS,
    NEWEST,
    ORDERS,
    REFUSALS,
    ROOT,
    STATE,
    GatewayRecord,
    LoadRecord,
    MemberRecord,
    OrderRecord,
    RefusalRecord,
    prefix_of,
)

_HEARTBEAT_S = 1.0
_GATEWAY_S = 2.0
"""A gateway that was killed is on the list for some seconds yet: nobody waits for it long."""
_log = logging.getLogger(__name__)


async def gateways_in_etcd(join: str) -> tuple[str, ...]:
    """Endpoints of the desks of the cluster at "etcd://HOST:PORT/CLUSTER"; the name may be left out if there is one.

    Raises ConfigError when the cluster cannot be told or has no gateway, RegistryUnavailable.
    """
    address = parse_etcd(join)
    client, cluster = EtcdClient(address), address.cluster
    try:
        listing = await client.list(f"{prefix_of(cluster)}{STATE}" if cluster else ROOT)
    finally:
        await client.close()
    found: dict[str, list[str]] = {}
    for entry in listing.entries:
        name, _, key = entry.key.removeprefix(ROOT).partition("/")
        record = read_record(entry, GatewayRecord) if key.startswith(GATEWAYS) else None
        if record is not None:
            found.setdefault(name, []).append(record.manager)
    if len(found) != 1:
        names = ", ".join(sorted(found)) or "none"
        raise ConfigError(
            f"{join}: clusters with a gateway there: {names}; start `memserve serve`, or name one of them"
        )
    return tuple(next(iter(found.values())))


class EtcdLink:
    """Of one instance, in one event loop."""

    def __init__(self, join: str, *, cluster: str, secret: ClusterSecret | None = None) -> None:
        """Raises ConfigError when `join` names no etcd, or files that cannot be used."""
        self._client = EtcdClient(parse_etcd(join))
        self._prefix = prefix_of(cluster)
        self._mirror = EtcdMirror(self._client, self._prefix, on_change=self._changed, folder=STATE)
        self._follower: asyncio.Task[None] | None = None
        self._lease = 0
        self._me: DeadInstance | None = None
        self._is_out = True
        self._as_of = 0
        self._lives: dict[InstanceId, Incarnation] = {}
        self._dead: list[DeadInstance] = []
        self._secret = secret
        self._desks: dict[str, RpcClient[object]] = {}

    async def call(self, message: object, *, deadline_s: float) -> object:
        """What a cluster manager would answer. Raises what it would, RegistryUnavailable, DeadlineExceeded."""
        if self._follower is None:
            self._follower = asyncio.create_task(self._mirror.run(), name="the cluster in etcd")
        try:
            async with asyncio.timeout(deadline_s):
                return await self._answer(message)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"no answer to {type(message).__name__} from {self._client} within {deadline_s:g} s"
            ) from error

    async def close(self) -> None:
        """Idempotent."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            await asyncio.wait([follower])
        for desk in self._desks.values():
            await desk.close()
        self._desks.clear()
        await self._client.close()

    async def _answer(self, message: object) -> object:
        match message:
            case JoinRequest():
                return await self._join(message)
            case HeartbeatRequest():
                return await self._beat(message)
            case LeaveRequest():
                await self._leave()
                return AckReply()
            case ReportRequest():
                return await self._report(message)
            case DrainRequest():
                return await self._ask_drain(message)
            case _:
                raise ProtocolError(f"{type(message).__name__} is nothing that a member says")

    # ------------------------------------------------------------ being a member

    async def _join(self, message: JoinRequest) -> JoinReply:
        name = message.peer.instance
        await self._mirror.wait_listed()
        if self._as_of and await self._was_outlived(name):
            raise taken_for_dead(message.peer)
        await self._hold_lease()
        member = await self._client.get(self._key(MEMBERS, name))
        newest = await self._client.get(self._key(NEWEST, name))
        try:
            self._check(message.peer, member, newest)
        except MemserveError as error:
            refusal = RefusalRecord(incarnation=message.peer.incarnation, why=str(error))
            await self._put(REFUSALS, name, refusal)
            raise
        written = await self._client.transact(
            unchanged={self._key(MEMBERS, name): _revision(member), self._key(NEWEST, name): _revision(newest)},
            writes=[
                Put(key=self._key(NEWEST, name), value=str(message.peer.incarnation).encode()),
                Put(key=self._key(MEMBERS, name), value=_json(MemberRecord(join=message)), lease=self._lease),
                Delete(key=self._key(REFUSALS, name)),
            ],
        )
        if not written:
            raise InstanceUnavailable(f"another process was registered as {name} at the same moment; asking again")
        self._me = DeadInstance(instance=name, incarnation=message.peer.incarnation)
        self._is_out = False
        return JoinReply(epoch=Epoch(0), heartbeat_s=_HEARTBEAT_S)

    async def _was_outlived(self, name: InstanceId) -> bool:
        """Whether this member's record is gone while one of another member is still there from before."""
        there = (await self._client.list(f"{self._prefix}{MEMBERS}")).entries
        own = self._key(MEMBERS, name)
        if any(entry.key == own for entry in there):
            return False
        return any(entry.create_revision <= self._as_of for entry in there)

    async def _hold_lease(self) -> None:
        try:
            if self._lease:
                await self._client.keep_alive(self._lease)
        except LeaseLost:
            self._lease = 0
        if not self._lease:
            self._lease = await self._client.grant(MEMBER_TTL_S)

    def _check(self, peer: PeerInfo, member: Entry | None, newest: Entry | None) -> None:
        check_newest(peer, Incarnation(int(newest.value)) if newest is not None and newest.value else None)
        present = read_record(member, MemberRecord)
        if present is not None and present.join.peer.incarnation != peer.incarnation:
            raise name_taken(peer, present.join.peer.incarnation, f"its lease of {MEMBER_TTL_S} s has not ended")
        for entry in self._mirror.under(MEMBERS):
            other = read_record(entry, MemberRecord)
            if other is not None and other.join.peer.instance != peer.instance:
                peer.identity.check_same(other.join.peer.identity, other.join.peer.instance)
                return

    async def _beat(self, message: HeartbeatRequest) -> HeartbeatReply:
        try:
            await self._client.keep_alive(self._lease)
            await self._put(LOADS, message.instance, LoadRecord(incarnation=message.incarnation, load=message.load))
        except LeaseLost:
            self._is_out = True
        if self._is_out:
            return HeartbeatReply(epoch=Epoch(0), known=False)
        self._as_of = max((entry.create_revision for entry in self._mirror.under(MEMBERS)), default=0)
        order = self._order_of(message.instance, message.incarnation)
        dead, self._dead = self._dead, []
        return HeartbeatReply(
            epoch=Epoch(0),
            known=True,
            dead=tuple(dead),
            role=order.role,
            dismissed=order.is_dismissed,
            memory=self._memory_for(message.instance),
        )

    async def _leave(self) -> None:
        """Whatever was put under the lease goes with it."""
        lease, self._lease = self._lease, 0
        if lease:
            await self._client.revoke(lease)

    def _order_of(self, instance: InstanceId, incarnation: Incarnation) -> OrderRecord:
        entry = self._mirror.find(f"{ORDERS}{instance}")
        order = read_record(entry, OrderRecord)
        return order if order is not None and order.incarnation == incarnation else OrderRecord(incarnation=incarnation)

    def peers(self) -> tuple[PeerInfo, ...]:
        """All members as this one knows them now, itself included."""
        return tuple(join.peer for join in self._joins())

    def _joins(self) -> list[JoinRequest]:
        return [record.join for entry in self._mirror.under(MEMBERS) if (record := read_record(entry, MemberRecord))]

    def _memory_for(self, instance: InstanceId) -> tuple[PeerInfo, ...]:
        """Memory instances do not fill each other up."""
        memory = tuple(join.peer for join in self._joins() if join.role is Role.MEMORY)
        return () if any(peer.instance == instance for peer in memory) else memory

    def _changed(self, entries: tuple[Entry, ...]) -> None:
        """Who was replaced or is no longer a member is dead."""
        for entry in entries:
            if entry.key.startswith(MEMBERS):
                name = InstanceId(entry.key.removeprefix(MEMBERS))
                record = read_record(entry, MemberRecord)
                life = record.join.peer.incarnation if record is not None else None
                before = self._lives.pop(name, None)
                if life is not None:
                    self._lives[name] = life
                if before is not None and before != life:
                    self._died(DeadInstance(instance=name, incarnation=before))

    def _died(self, dead: DeadInstance) -> None:
        if dead == self._me:
            self._is_out = True
        else:
            self._dead.append(dead)

    # ------------------------------------------------------------ talking to gateways

    async def _report(self, message: ReportRequest) -> AckReply:
        """Raises InstanceUnavailable when no gateway took it."""
        told = await asyncio.gather(*(self._tell(desk, message) for desk in self._desks_now()))
        if not any(told):
            raise InstanceUnavailable("no gateway of this cluster answers")
        return AckReply()

    async def _tell(self, desk: RpcClient[object], message: ReportRequest) -> bool:
        try:
            await desk.call(message, deadline_s=_GATEWAY_S)
        except InstanceUnavailable as error:
            _log.debug("a report did not arrive: %s", error)
            return False
        return True

    async def _ask_drain(self, message: DrainRequest) -> object:
        """The first gateway that answers carries it out."""
        for desk in self._desks_now():
            try:
                return await desk.call(message, deadline_s=_GATEWAY_S)
            except DeadlineExceeded as error:
                _log.debug("asking the next gateway: %s", error)
        raise InstanceUnavailable("no gateway of this cluster answers: nobody can take over what is held here")

    def _desks_now(self) -> tuple[RpcClient[object], ...]:
        records = [read_record(entry, GatewayRecord) for entry in self._mirror.under(GATEWAYS)]
        endpoints = {record.manager for record in records if record is not None}
        for endpoint in endpoints - self._desks.keys():
            self._desks[endpoint] = RpcClient(endpoint, ClusterMessage, secret=self._secret)
        return tuple(self._desks[endpoint] for endpoint in sorted(endpoints))

    async def _put(self, folder: str, name: InstanceId, record: object) -> None:
        await self._client.put(Put(key=self._key(folder, name), value=_json(record), lease=self._lease))

    def _key(self, folder: str, name: InstanceId) -> str:
        return f"{self._prefix}{folder}{name}"

    def __repr__(self) -> str:
        return f"EtcdLink({self._client}, {'outside' if self._is_out else 'inside'})"


def _revision(entry: Entry | None) -> int:
    return entry.mod_revision if entry is not None else 0


def _json(record: object) -> bytes:
    return msgspec.json.encode(record)
