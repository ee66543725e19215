"""Registry: the door through which instances join, tell that they live, report and leave.

Owns the RPC server of the cluster manager. Decides nothing: what comes in becomes a fact for
membership, and its answer the reply.

    start -> serving -> close
"""

from collections.abc import Callable

from memserve.cluster.events import Event, HeartbeatReceived, InstanceJoined, LeaveReceived
from memserve.cluster.membership import Membership
from memserve.core.errors import ConfigError, ProtocolError
from memserve.rpc.channel import RpcServer, Sender
from memserve.wire.messages import (
    AckReply,
    ClusterMessage,
    HeartbeatReply,
    HeartbeatRequest,
    JoinReply,
    JoinRequest,
    LeaveRequest,
    ReportRequest,
    RequestReport,
)

HEARTBEAT_S = 1.0
"""How often an instance is asked to tell that it lives."""


class Registry:
    def __init__(
        self,
        *,
        cluster: str,
        bind: str,
        membership: Membership,
        tell: Callable[[Event], None],
        on_report: Callable[[RequestReport], None],
    ) -> None:
        """`tell` hands a fact to membership and has its effects performed; its exceptions refuse the request."""
        self._cluster = cluster
        self._membership = membership
        self._tell = tell
        self._on_report = on_report
        self._server: RpcServer[ClusterMessage] = RpcServer(bind, self._answer, ClusterMessage)

    @property
    def endpoint(self) -> str:
        return self._server.endpoint

    async def start(self) -> None:
        """Listen. Raises ConfigError when the address cannot be bound."""
        await self._server.start()

    async def close(self) -> None:
        await self._server.close()

    async def _answer(self, message: ClusterMessage, _sender: Sender) -> ClusterMessage:
        match message:
            case JoinRequest():
                return self._join(message)
            case HeartbeatRequest():
                return self._heartbeat(message)
            case LeaveRequest(instance=instance, incarnation=incarnation):
                self._tell(LeaveReceived(instance=instance, incarnation=incarnation))
                return AckReply()
            case ReportRequest(report=report):
                self._on_report(report)
                return AckReply()
            case _:
                raise ProtocolError(f"{type(message).__name__} is no request to a cluster manager")

    def _join(self, message: JoinRequest) -> JoinReply:
        if message.cluster != self._cluster:
            raise ConfigError(
                f'{message.peer.instance} wants to join cluster "{message.cluster}", but this is "{self._cluster}": '
                "give it this name or another --join"
            )
        self._tell(InstanceJoined(peer=message.peer, role=message.role, url=message.url, can_play=message.can_play))
        return JoinReply(epoch=self._membership.first_epoch(message.peer.instance), heartbeat_s=HEARTBEAT_S)

    def _heartbeat(self, message: HeartbeatRequest) -> HeartbeatReply:
        self._tell(HeartbeatReceived(instance=message.instance, incarnation=message.incarnation, load=message.load))
        known = self._membership.knows(message.instance, message.incarnation)
        present = self._membership.view.find(message.instance) if known else None
        return HeartbeatReply(
            epoch=self._membership.view.epoch,
            known=known,
            role=present.role if present is not None else None,
            dead=self._membership.dead_since(message.seen) if known else (),
        )
