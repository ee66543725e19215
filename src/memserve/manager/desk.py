"""Desk: the door at which instances, and those who run them, ask and tell the cluster manager.

Owns its RPC server, and what it has to tell those who run an instance: that it is dismissed, or why it was
refused. Decides nothing: requests go to whoever answers for them, and what a registry says of members is the reply.

    start -> serving -> close
"""

import logging
from collections.abc import Awaitable, Callable

import msgspec

from memserve.cluster.membership import Membership
from memserve.core.errors import ConfigError, ProtocolError
from memserve.core.ids import Incarnation, InstanceId
from memserve.rpc.channel import RpcServer, Sender
from memserve.security.secret import ClusterSecret
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
    ReportRequest,
    RequestReport,
    WelcomeReply,
    WelcomeRequest,
)

MemberAnswers = Callable[[JoinRequest | HeartbeatRequest | LeaveRequest], JoinReply | HeartbeatReply | AckReply]
_MAX_REFUSALS = 256
_log = logging.getLogger(__name__)


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    incarnation: Incarnation
    why: str


class Desk:
    """Of one cluster manager."""

    def __init__(
        self,
        *,
        cluster: str,
        bind: str,
        port: int,
        membership: Membership,
        on_report: Callable[[RequestReport], None],
        on_drain: Callable[[InstanceId], Awaitable[None]],
        on_dismissed: Callable[[InstanceId], None],
        config: bytes,
        secret: ClusterSecret | None = None,
    ) -> None:
        """`config` goes to whoever is about to start an instance; what `on_drain` raises refuses the request.

        `on_dismissed` hears what another manager dismissed.
        """
        self.cluster = cluster
        self.config = config
        self._membership = membership
        self._on_report = on_report
        self._on_drain = on_drain
        self._on_dismissed = on_dismissed
        self._dismissed: dict[InstanceId, Incarnation] = {}
        self._refusals: dict[InstanceId, _Refusal] = {}
        self._members: MemberAnswers | None = None
        self._join = ""
        self._managers: Callable[[], tuple[str, ...]] = tuple
        self._server: RpcServer[ClusterMessage] = RpcServer(
            bind, self._answer, ClusterMessage, port=port, secret=secret
        )

    @property
    def endpoint(self) -> str:
        """ "" before `start`."""
        return self._server.endpoint

    def answer_members(self, answers: MemberAnswers) -> None:
        """Members join, beat and leave here."""
        self._members = answers

    def send_members(self, join: str, managers: Callable[[], tuple[str, ...]]) -> None:
        """Members join, beat and leave at `join`; `managers` are the endpoints of all desks of the cluster."""
        self._join, self._managers = join, managers

    async def start(self) -> None:
        """Listen. Raises ConfigError when the address cannot be bound."""
        await self._server.start()

    async def close(self) -> None:
        await self._server.close()

    def dismiss(self, instance: InstanceId, incarnation: Incarnation) -> None:
        """Tell whoever runs it, when they ask, that it is wanted no more."""
        self._dismissed[instance] = incarnation

    def hear_dismissal(self, instance: InstanceId, incarnation: Incarnation) -> None:
        """Another manager wants it no more; nothing happens when that is known."""
        if not self.has_dismissed(instance, incarnation):
            self._dismissed[instance] = incarnation
            self._on_dismissed(instance)

    def has_dismissed(self, instance: InstanceId, incarnation: Incarnation) -> bool:
        """Its going is no surprise."""
        return self._dismissed.get(instance) == incarnation

    def accepted(self, instance: InstanceId, incarnation: Incarnation) -> None:
        """It is in: what was said of an earlier life counts no more."""
        self._refusals.pop(instance, None)
        if self._dismissed.get(instance) != incarnation:
            self._dismissed.pop(instance, None)

    def refuse(self, instance: InstanceId, incarnation: Incarnation, why: str) -> None:
        """Logged once and not at every attempt; the latest are remembered for whoever runs the instance."""
        refusal = _Refusal(incarnation=incarnation, why=why)
        before = self._refusals.pop(instance, None)
        if before is None or before.why != why:
            _log.warning("%s is not taken into the cluster: %s", instance, why)
        self._refusals[instance] = refusal
        while len(self._refusals) > _MAX_REFUSALS:
            del self._refusals[next(iter(self._refusals))]

    def forgive(self, instance: InstanceId) -> None:
        """It is not refused any more."""
        self._refusals.pop(instance, None)

    def refusal_of(self, instance: InstanceId) -> str:
        """ "" when it is not refused; that another process wants its name is no refusal of the one that has it."""
        refusal, present = self._refusals.get(instance), self._membership.view.find(instance)
        if refusal is None or (present is not None and present.incarnation != refusal.incarnation):
            return ""
        return refusal.why

    async def _answer(self, message: ClusterMessage, _sender: Sender) -> ClusterMessage:
        match message:
            case JoinRequest() | HeartbeatRequest() | LeaveRequest():
                return self._of_members(message)
            case MemberRequest(instance=instance):
                return self._member(instance)
            case WelcomeRequest():
                return self._welcome()
            case DrainRequest(instance=instance, incarnation=incarnation):
                if self._membership.knows(instance, incarnation):
                    await self._on_drain(instance)
                return AckReply()
            case ReportRequest(report=report):
                self._on_report(report)
                return AckReply()
            case _:
                raise ProtocolError(f"{type(message).__name__} is no request to a cluster manager")

    def _of_members(self, message: JoinRequest | HeartbeatRequest | LeaveRequest) -> ClusterMessage:
        if self._members is None:
            raise ConfigError(f"the members of this cluster are registered in {self._join}: join there")
        return self._members(message)

    def _member(self, instance: InstanceId) -> MemberReply:
        present = self._membership.view.find(instance)
        return MemberReply(
            state="" if present is None else present.state,
            dismissed=instance in self._dismissed,
            refusal=self.refusal_of(instance),
            managers=self._managers(),
        )

    def _welcome(self) -> WelcomeReply:
        members = self._membership.view.instances
        identity = members[0].peer.identity if members else None
        return WelcomeReply(cluster=self.cluster, config=self.config, identity=identity, join=self._join)

    def __repr__(self) -> str:
        return f"Desk({self.endpoint or 'not started'})"
