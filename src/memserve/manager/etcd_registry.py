"""The registry in etcd: several gateways share one cluster, and each can be killed while the others serve on.

Owns this gateway's lease and record, and a copy of what etcd holds of the cluster. Members write themselves there,
under leases of their own (instance/etcd_link.py); that a lease has ended is what makes a member dead, for everybody.
Who may have requests from here is each manager's own judgement, from heartbeats and health checks. What a manager
decides about a member is written with a key that takes turns: of two decisions at once, the second is checked again.

While etcd does not answer, nobody's silence counts and the view stays: serving goes on, nothing can be changed.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable

import msgspec

from memserve.cluster.events import DrainAsked, HeartbeatReceived, InstanceJoined, LeaseEnded, OrderSeen, RoleAsked
from memserve.cluster.membership import Membership
from memserve.core.errors import ConfigError, LeaseLost, MemserveError, RegistryUnavailable
from memserve.core.etcd_address import parse_etcd
from memserve.core.ids import Incarnation, InstanceId
from memserve.manager.desk import Desk
from memserve.manager.registry import ActingScaler, RegistryMaker, RegistryStats, Tell
from memserve.rpc.etcd import Delete, Entry, EtcdClient, Put
from memserve.rpc.etcd_mirror import EtcdMirror, read_record
from memserve.wire.roster import (
    GATEWAY_TTL_S,
    GATEWAYS,
    LOADS,
    MEMBERS,
    ORDERS,
    REFUSALS,
    TURN,
    GatewayRecord,
    LoadRecord,
    MemberRecord,
    OrderRecord,
    RefusalRecord,
    prefix_of,
)

_BEAT_S = 1.0
_START_S = 6.0
_TURNS = 5
_TURN_S = 2.0
_log = logging.getLogger(__name__)


def registry_in_etcd(join: str, *, model: str, autoscales: bool = False) -> RegistryMaker:
    """`join` is what instances are given, too; `model` what every gateway of the cluster must serve.

    `autoscales`: this gateway would change the cluster by itself.

    Raises ConfigError when it names no etcd, or files that cannot be used.
    """
    client = EtcdClient(parse_etcd(join))
    return lambda desk, membership, tell: EtcdRegistry(
        desk, membership, tell, client=client, join=join, model=model, autoscales=autoscales
    )


class EtcdRegistry:
    """Of one gateway."""

    def __init__(
        self,
        desk: Desk,
        membership: Membership,
        tell: Tell,
        *,
        client: EtcdClient,
        join: str,
        model: str,
        autoscales: bool,
    ) -> None:
        self._desk = desk
        self._membership = membership
        self._tell = tell
        self._client = client
        self._join = join
        self._model = model
        self._autoscales = autoscales
        self._prefix = prefix_of(desk.cluster)
        self._id = secrets.token_hex(4)
        self._mirror = EtcdMirror(client, self._prefix, on_change=self._changed)
        self._lease = 0
        self._held_until = 0.0
        self._is_up = False
        self._num_outages = 0
        self._runner: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        desk.send_members(join, self._managers)

    @property
    def join(self) -> str:
        return self._join

    @property
    def is_hearing(self) -> bool:
        return self._is_up and self._mirror.is_in_step

    @property
    def acting_scaler(self) -> ActingScaler:
        """The oldest record's, here only while its lease must still hold: the next one acts when etcd has ended it."""
        if not self.is_hearing:
            return ActingScaler(is_here=False)
        for entry in self._mirror.under(GATEWAYS):
            record = read_record(entry, GatewayRecord)
            if record is not None and record.autoscales:
                is_own = entry.key == f"{GATEWAYS}{self._id}" and entry.lease == self._lease
                holds = asyncio.get_running_loop().time() < self._held_until
                return ActingScaler(is_here=is_own and holds, manager=record.manager)
        return ActingScaler(is_here=False)

    def stats(self) -> RegistryStats:
        return RegistryStats(is_up=self.is_hearing, num_outages=self._num_outages)

    async def start(self) -> None:
        """Raises ConfigError when etcd does not answer, or the cluster's other gateways serve another model."""
        try:
            async with asyncio.timeout(_START_S):
                await self._client.list(f"{self._prefix}{GATEWAYS}")
                self._runner = asyncio.create_task(self._run(), name="etcd registry")
                self._runner.add_done_callback(_broke_down)
                await self._mirror.wait_listed()
                self._check_model()
                await self._register()
        except (TimeoutError, RegistryUnavailable) as error:
            where, why = ", ".join(self._client.endpoints), str(error) or "no answer in time"
            raise ConfigError(
                f"no etcd answers at {where}: start it, or set --registry to where it is ({why})"
            ) from error
        self._is_up = True

    async def agree(self, asked: DrainAsked | RoleAsked) -> None:
        """Checked against what etcd holds at that very moment."""
        for _ in range(_TURNS):
            turn = self._mirror.revision_of(TURN)
            self._membership.check(asked)
            if await self._order(asked, turn):
                return
            await self._next_turn(turn)
        raise RegistryUnavailable("other gateways change the cluster all the time: nothing was changed, try again")

    async def dismiss(self, instance: InstanceId, incarnation: Incarnation) -> None:
        order = msgspec.structs.replace(self._order_of(instance, incarnation), is_dismissed=True)
        self._desk.dismiss(instance, incarnation)
        await self._write(instance, order, unchanged={})

    def gone(self, instance: InstanceId, incarnation: Incarnation) -> None:
        member = self._mirror.find(f"{MEMBERS}{instance}")
        record = read_record(member, MemberRecord)
        if member is not None and record is not None and record.join.peer.incarnation == incarnation:
            task = asyncio.create_task(self._delete(member), name=f"{instance} is gone")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Says goodbye, for as long as one call to etcd may take. Idempotent."""
        tasks = [*self._tasks, *([self._runner] if self._runner is not None else [])]
        self._runner = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        lease, self._lease = self._lease, 0
        if lease:
            try:
                await self._client.revoke(lease)
            except (RegistryUnavailable, LeaseLost) as error:
                _log.info("this gateway's lease ends by itself: %s", error)
        await self._client.close()

    # ------------------------------------------------------------ this gateway in etcd

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._mirror.run())
            group.create_task(self._beat())

    async def _beat(self) -> None:
        """Its own lease, and with it whether etcd answers."""
        while True:
            await asyncio.sleep(_BEAT_S)
            if not self._lease:
                continue
            try:
                await self._keep_alive()
                if self._mirror.is_in_step:
                    self._came_back()
                else:
                    self._went_away("it does not tell what changes")
            except RegistryUnavailable as error:
                self._went_away(str(error))

    async def _keep_alive(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        try:
            await self._client.keep_alive(self._lease)
        except LeaseLost:
            await self._register()
        else:
            self._held_until = asked_at + GATEWAY_TTL_S

    async def _register(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        self._lease = await self._client.grant(GATEWAY_TTL_S)
        self._held_until = asked_at + GATEWAY_TTL_S
        record = GatewayRecord(manager=self._desk.endpoint, model=self._model, autoscales=self._autoscales)
        await self._client.put(Put(key=f"{self._prefix}{GATEWAYS}{self._id}", value=_json(record), lease=self._lease))

    def _check_model(self) -> None:
        for entry in self._mirror.under(GATEWAYS):
            other = read_record(entry, GatewayRecord)
            if other is not None and other.model != self._model:
                raise ConfigError(
                    f'the cluster "{self._desk.cluster}" serves {other.model} at its other gateway ({other.manager}), '
                    f"not {self._model}: give the same model, or another --name"
                )

    def _managers(self) -> tuple[str, ...]:
        records = [read_record(entry, GatewayRecord) for entry in self._mirror.under(GATEWAYS)]
        return tuple(record.manager for record in records if record is not None)

    def _went_away(self, why: str) -> None:
        if self._is_up:
            self._is_up = False
            self._num_outages += 1
            _log.error("%s; serving goes on with the cluster as it was, nobody can come, go or change", why)

    def _came_back(self) -> None:
        """Nobody was heard of meanwhile: that is no silence of theirs."""
        if not self._is_up:
            self._is_up = True
            for instance in self._membership.view.instances:
                self._tell(
                    HeartbeatReceived(instance=instance.instance, incarnation=instance.incarnation, load=instance.load)
                )
            _log.warning("etcd answers again; the cluster is followed as before")

    # ------------------------------------------------------------ decisions about members

    async def _order(self, asked: DrainAsked | RoleAsked, turn: int) -> bool:
        """False when somebody else had the turn."""
        present = self._membership.view.find(asked.instance)
        if present is None:
            return False
        order = self._order_of(asked.instance, present.incarnation)
        if isinstance(asked, DrainAsked):
            order = msgspec.structs.replace(order, is_draining=True)
        else:
            order = msgspec.structs.replace(order, role=asked.role)
        if not await self._write(asked.instance, order, unchanged={TURN: turn}):
            return False
        self._saw(asked.instance, order)
        return True

    async def _write(self, instance: InstanceId, order: OrderRecord, *, unchanged: dict[str, int]) -> bool:
        member = self._mirror.find(f"{MEMBERS}{instance}")
        if member is None:
            return False
        expected = {**unchanged, f"{MEMBERS}{instance}": member.mod_revision}
        try:
            return await self._client.transact(
                unchanged={f"{self._prefix}{key}": revision for key, revision in expected.items()},
                writes=[
                    Put(key=f"{self._prefix}{TURN}", value=instance.encode()),
                    Put(key=f"{self._prefix}{ORDERS}{instance}", value=_json(order), lease=member.lease),
                ],
            )
        except LeaseLost:
            return False

    async def _next_turn(self, turn: int) -> None:
        """Until somebody else's order has arrived here."""
        try:
            async with asyncio.timeout(_TURN_S):
                while self._mirror.revision_of(TURN) == turn:
                    await self._mirror.wait_change()
        except TimeoutError:
            return  # the member went, or its record changed: checked again

    async def _delete(self, member: Entry) -> None:
        key = f"{self._prefix}{member.key}"
        try:
            await self._client.transact(unchanged={key: member.mod_revision}, writes=[Delete(key=key)])
        except RegistryUnavailable as error:
            _log.info("%s is known to be gone when its lease ends: %s", member.key, error)

    def _order_of(self, instance: InstanceId, incarnation: Incarnation) -> OrderRecord:
        entry = self._mirror.find(f"{ORDERS}{instance}")
        order = read_record(entry, OrderRecord)
        return order if order is not None and order.incarnation == incarnation else OrderRecord(incarnation=incarnation)

    # ------------------------------------------------------------ what etcd tells

    def _changed(self, entries: tuple[Entry, ...]) -> None:
        handlers: dict[str, Callable[[InstanceId, Entry], None]] = {
            MEMBERS: self._member_changed,
            ORDERS: self._order_changed,
            LOADS: self._load_changed,
            REFUSALS: self._refusal_changed,
        }
        for entry in entries:
            folder = next((folder for folder in handlers if entry.key.startswith(folder)), None)
            if folder is not None:
                handlers[folder](InstanceId(entry.key.removeprefix(folder)), entry)

    def _member_changed(self, instance: InstanceId, entry: Entry) -> None:
        record = read_record(entry, MemberRecord)
        present = self._membership.view.find(instance)
        if present is not None and (record is None or record.join.peer.incarnation != present.incarnation):
            self._tell(LeaseEnded(instance=instance, incarnation=present.incarnation))
        if record is None:
            return
        join = record.join
        try:
            self._tell(InstanceJoined(peer=join.peer, role=join.role, url=join.url, can_play=join.can_play))
        except MemserveError as error:
            self._desk.refuse(instance, join.peer.incarnation, str(error))
        else:
            self._desk.accepted(instance, join.peer.incarnation)

    def _order_changed(self, instance: InstanceId, entry: Entry) -> None:
        order = read_record(entry, OrderRecord)
        if order is not None:
            self._saw(instance, order)

    def _saw(self, instance: InstanceId, order: OrderRecord) -> None:
        self._tell(
            OrderSeen(instance=instance, incarnation=order.incarnation, role=order.role, is_draining=order.is_draining)
        )
        if order.is_dismissed:
            self._desk.hear_dismissal(instance, order.incarnation)

    def _load_changed(self, instance: InstanceId, entry: Entry) -> None:
        told = read_record(entry, LoadRecord)
        if told is not None:
            self._tell(HeartbeatReceived(instance=instance, incarnation=told.incarnation, load=told.load))

    def _refusal_changed(self, instance: InstanceId, entry: Entry) -> None:
        refusal = read_record(entry, RefusalRecord)
        if refusal is not None:
            self._desk.refuse(instance, refusal.incarnation, refusal.why)
        else:
            self._desk.forgive(instance)

    def __repr__(self) -> str:
        return f"EtcdRegistry({self._client}, {'up' if self.is_hearing else 'away'}, {self._num_outages} outages)"


def _broke_down(runner: "asyncio.Task[None]") -> None:
    if not runner.cancelled() and runner.exception() is not None:
        _log.critical("the registry broke down: membership stands still", exc_info=runner.exception())


def _json(record: object) -> bytes:
    return msgspec.json.encode(record)
