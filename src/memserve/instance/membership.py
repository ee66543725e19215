"""A pool's membership in a cluster, for the threads of its process: joining, reporting, asking to be let go.

Owns at most one MembershipClient, which lives in the agent's loop and ends with it.
"""

import os
from collections.abc import Callable

from memserve.core.enums import Role
from memserve.core.errors import ConfigError
from memserve.core.etcd_address import is_etcd
from memserve.core.ids import Incarnation, InstanceId
from memserve.instance.agent import Agent
from memserve.instance.etcd_link import EtcdLink
from memserve.instance.membership_client import ManagerLink, MembershipClient
from memserve.rpc.channel import RpcClient
from memserve.security.secret import ClusterSecret
from memserve.wire.messages import ClusterMessage, JoinRequest, Load, PeerInfo, RequestReport


class Membership:
    """Of one pool. Thread-safe."""

    def __init__(
        self,
        *,
        agent: Agent,
        local: Callable[[], PeerInfo],
        peer_died: Callable[[InstanceId, Incarnation], None],
        use_memory: Callable[[tuple[PeerInfo, ...]], None],
        secret: ClusterSecret | None = None,
    ) -> None:
        """`peer_died` and `use_memory` are called in the agent's loop and must not block."""
        self._agent = agent
        self._use_memory = use_memory
        self._secret = secret
        self._local = local
        self._peer_died = peer_died
        self._client: MembershipClient | None = None

    @property
    def num_dropped(self) -> int:
        """Reports that were dropped because the manager did not take them in time."""
        return self._client.num_dropped if self._client is not None else 0

    def join(
        self,
        manager_endpoint: str,
        *,
        cluster: str,
        role: Role,
        url: str,
        load: Callable[[], Load],
        can_play: tuple[Role, ...] = (),
        dismissed: Callable[[], None] | None = None,
        fenced: Callable[[], None] | None = None,
    ) -> None:
        """Join a cluster in the background, and again when the manager forgets; `load` must not block.

        `manager_endpoint` is where its manager listens, or etcd://HOST:PORT. Raises ConfigError for a wrong one.

        `can_play` are roles that this instance can change to while it runs. `dismissed` is called, perhaps more
        than once and in the pool's own thread, when it has been drained and is to end; `fenced` once, when the
        cluster took it for dead: its process is to end before it writes where others write now.
        """
        if self._client is not None:
            raise ConfigError("this pool has joined a cluster already: one pool belongs to one cluster")
        request = JoinRequest(
            cluster=cluster, peer=self._local(), role=role, url=url, pid=os.getpid(), can_play=can_play
        )
        self._client = MembershipClient(
            link=_link(manager_endpoint, cluster, self._secret),
            join=request,
            load=load,
            peer_died=self._peer_died,
            dismissed=dismissed or _nobody_cares,
            fenced=fenced or _nobody_cares,
            use_memory=self._use_memory,
        )
        self._agent.run_background(self._client.run())

    def ask_drain(self) -> None:
        """Ask the cluster manager to let this instance go: `dismissed` is called once its cache is handed on.

        Raises InstanceUnavailable when no manager answers, ConfigError when it refuses or none was joined.
        """
        if self._client is None:
            raise ConfigError("this pool has joined no cluster: nobody is there to drain it")
        self._agent.wait(self._client.ask_drain())

    def report(self, report: RequestReport) -> None:
        """Queue a report for the cluster manager; dropped when this pool has not joined one."""
        if self._client is not None:
            self._client.report(report)
            self._agent.call_soon(self._client.wake)

    def __repr__(self) -> str:
        return f"Membership({self._client or 'of no cluster'})"


def _link(join: str, cluster: str, secret: ClusterSecret | None) -> ManagerLink:
    if is_etcd(join):
        return EtcdLink(join, cluster=cluster, secret=secret)
    return RpcClient(join, ClusterMessage, secret=secret)


def _nobody_cares() -> None:
    """Whoever runs the instance hears of it in another way."""
