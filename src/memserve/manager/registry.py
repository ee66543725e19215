"""Registry: the door through which instances join, tell that they live, report and leave.

Owns the RPC server of the cluster manager, and what it has to tell those who run an instance: that it is
dismissed, or why it was refused. Decides nothing: what comes in becomes a fact for membership, and its answer
the reply.

    start -> serving -> close
"""

import logging
import time
from collections.abc import Callable

from memserve.cluster.events import Event, HeartbeatReceived, InstanceJoined, LeaveReceived
from memserve.cluster.membership import Membership
from memserve.cluster.view import InstanceView
from memserve.core.enums import Role
from memserve.core.errors import ConfigError, MemserveError, ProtocolError
from memserve.core.ids import Incarnation, InstanceId
from memserve.rpc.channel import RpcServer, Sender
from memserve.wire.messages import (
    AckReply,
    ClusterMessage,
    DrainRequest,
    HeartbeatReply,
    HeartbeatRequest,
    JoinReply,
    JoinRequest,
    LeaveRequest,
    MemberReply,
    MemberRequest,
    PeerInfo,
    ReportRequest,
    RequestReport,
    WelcomeReply,
    WelcomeRequest,
)

HEARTBEAT_S = 1.0
"""How often an instance is asked to tell that it lives."""
_AHEAD_S = 600.0
"""How much the clock of another host may be ahead of this one's: incarnations are times."""
_MAX_REFUSALS = 256
_log = logging.getLogger(__name__)


class Registry:
    def __init__(
        self,
        *,
        cluster: str,
        bind: str,
        port: int,
        membership: Membership,
        tell: Callable[[Event], None],
        on_report: Callable[[RequestReport], None],
        on_drain: Callable[[InstanceId], None],
        config: bytes,
    ) -> None:
        """`tell` hands a fact to membership and has its effects performed; its exceptions refuse the request.

        `config` goes to whoever is about to start an instance.
        """
        self._cluster = cluster
        self._membership = membership
        self._tell = tell
        self._on_report = on_report
        self._on_drain = on_drain
        self._config = config
        self._dismissed: dict[InstanceId, Incarnation] = {}
        self._refusals: dict[InstanceId, str] = {}
        self._server: RpcServer[ClusterMessage] = RpcServer(bind, self._answer, ClusterMessage, port=port)

    @property
    def endpoint(self) -> str:
        return self._server.endpoint

    async def start(self) -> None:
        """Listen. Raises ConfigError when the address cannot be bound."""
        await self._server.start()

    def dismiss(self, instance: InstanceId, incarnation: Incarnation) -> None:
        """Tell it, with its next heartbeat, that it is wanted no more; and whoever runs it, when they ask."""
        self._dismissed[instance] = incarnation

    def judge(self, instance: InstanceId, refusal: str) -> None:
        """Tell whoever runs it that it is refused after all; "" that it is not."""
        if refusal:
            self._refused(instance, refusal)
        else:
            self._refusals.pop(instance, None)

    def refusal_of(self, instance: InstanceId) -> str:
        """ "" when it is not refused."""
        return self._refusals.get(instance, "")

    def has_dismissed(self, instance: InstanceId, incarnation: Incarnation) -> bool:
        """Its going is no surprise."""
        return self._dismissed.get(instance) == incarnation

    async def close(self) -> None:
        await self._server.close()

    async def _answer(self, message: ClusterMessage, _sender: Sender) -> ClusterMessage:
        match message:
            case JoinRequest():
                return self._join(message)
            case HeartbeatRequest():
                return self._heartbeat(message)
            case MemberRequest(instance=instance):
                return self._member(instance)
            case WelcomeRequest():
                return self._welcome()
            case _:
                self._note(message)
                return AckReply()

    def _note(self, message: ClusterMessage) -> None:
        """What needs no answer but that it came."""
        match message:
            case LeaveRequest(instance=instance, incarnation=incarnation):
                self._tell(LeaveReceived(instance=instance, incarnation=incarnation))
            case DrainRequest(instance=instance, incarnation=incarnation):
                if self._membership.knows(instance, incarnation):
                    self._on_drain(instance)
            case ReportRequest(report=report):
                self._on_report(report)
            case _:
                raise ProtocolError(f"{type(message).__name__} is no request to a cluster manager")

    def _join(self, message: JoinRequest) -> JoinReply:
        name = message.peer.instance
        try:
            self._check(message)
            self._tell(InstanceJoined(peer=message.peer, role=message.role, url=message.url, can_play=message.can_play))
        except MemserveError as error:
            self._refused(name, str(error))
            raise
        self._refusals.pop(name, None)
        if self._dismissed.get(name) != message.peer.incarnation:
            self._dismissed.pop(name, None)
        return JoinReply(epoch=self._membership.first_epoch(name), heartbeat_s=HEARTBEAT_S)

    def _check(self, message: JoinRequest) -> None:
        name = message.peer.instance
        if message.cluster != self._cluster:
            raise ConfigError(
                f'{name} wants to join cluster "{message.cluster}", but this is "{self._cluster}": '
                "give it this name or another --join"
            )
        ahead_s = message.peer.incarnation / 1e9 - time.time()
        if ahead_s > _AHEAD_S:
            raise ConfigError(
                f"{name} says that it was started {ahead_s:.0f} s from now: set the clocks of both hosts (NTP), "
                "or no later start under this name would be accepted"
            )

    def _refused(self, name: InstanceId, why: str) -> None:
        """Logged once and not at every attempt; the latest are remembered for whoever runs the instance."""
        if self._refusals.pop(name, None) != why:
            _log.warning("%s is not taken into the cluster: %s", name, why)
        self._refusals[name] = why
        while len(self._refusals) > _MAX_REFUSALS:
            del self._refusals[next(iter(self._refusals))]

    def _member(self, instance: InstanceId) -> MemberReply:
        present = self._membership.view.find(instance)
        return MemberReply(
            state="" if present is None else present.state,
            dismissed=instance in self._dismissed,
            refusal=self.refusal_of(instance),
        )

    def _heartbeat(self, message: HeartbeatRequest) -> HeartbeatReply:
        self._tell(HeartbeatReceived(instance=message.instance, incarnation=message.incarnation, load=message.load))
        known = self._membership.knows(message.instance, message.incarnation)
        present = self._membership.view.find(message.instance) if known else None
        return HeartbeatReply(
            epoch=self._membership.view.epoch,
            known=known,
            role=present.role if present is not None else None,
            dismissed=self.has_dismissed(message.instance, message.incarnation),
            memory=self._memory_for(present) if present is not None else (),
            dead=self._membership.dead_since(message.seen) if known else (),
        )

    def _welcome(self) -> WelcomeReply:
        members = self._membership.view.instances
        identity = members[0].peer.identity if members else None
        return WelcomeReply(cluster=self._cluster, config=self._config, identity=identity)

    def _memory_for(self, member: InstanceView) -> tuple[PeerInfo, ...]:
        """Memory instances do not fill each other up."""
        if member.role is Role.MEMORY:
            return ()
        return tuple(instance.peer for instance in self._membership.view.active(Role.MEMORY))
