"""What is known of the paths between the instances: tried out, both ways, before an instance gets its first request.

Owns the latest check of each pair and path. An instance that can exchange blocks with nobody who answered is
refused: it would compute everything anew, and nobody would be told.
"""

import asyncio
import logging
from collections.abc import Iterable

from memserve.cluster.view import ClusterView, InstanceView
from memserve.core.enums import DataPath
from memserve.core.errors import MemserveError
from memserve.core.ids import InstanceId
from memserve.rpc.channel import RpcClient
from memserve.security.secret import ClusterSecret
from memserve.wire.messages import PathCheck, PeerMessage, SelfTestReply, SelfTestRequest

_MAX_PEERS = 16
"""Of one instance: a large cluster is tried out in part, so that joining does not cost more and more."""
_log = logging.getLogger(__name__)


class SelfTests:
    """Of one cluster."""

    def __init__(self, *, deadline_s: float = 12.0, secret: ClusterSecret | None = None) -> None:
        """An instance that says nothing for `deadline_s` has nothing to say about its paths."""
        self._deadline_s = deadline_s
        self._secret = secret
        self._checks: dict[tuple[InstanceId, InstanceId, DataPath], PathCheck] = {}

    def checks(self, view: ClusterView) -> tuple[PathCheck, ...]:
        """Between instances that are still there."""
        there = {instance.instance for instance in view.instances}
        self._checks = {key: check for key, check in self._checks.items() if {key[0], key[1]} <= there}
        return tuple(self._checks.values())

    async def refusal(self, newcomer: InstanceView, peers: Iterable[InstanceView]) -> str:
        """Try all paths between the newcomer and these; why it is to be refused, "" when it is not."""
        others = tuple(peer for peer in peers if _has_memory(peer))[:_MAX_PEERS]
        if not others or not _has_memory(newcomer):
            return ""
        asked = [(newcomer, others), *((other, (newcomer,)) for other in others)]
        found = [check for part in await asyncio.gather(*(self._ask(*pair) for pair in asked)) for check in part]
        for check in found:
            self._checks[check.source, check.target, check.path] = check
            if check.is_possible and check.fault:
                hop = f"from {check.source} to {check.target} by {check.path}"
                _log.warning("a block does not get %s: %s", hop, check.fault)
        answered = [check for check in found if check.answered]
        if not answered or any(check.is_right for check in answered):
            return ""
        faults = "; ".join(sorted({c.fault or f"{c.path} leads nowhere between them" for c in answered}))
        names = ", ".join(other.instance for other in others)
        return f"no block gets between {newcomer.instance} and {names}: {faults}; set pool.paths so that both allow one"

    async def _ask(self, instance: InstanceView, peers: tuple[InstanceView, ...]) -> tuple[PathCheck, ...]:
        """None when it does not say."""
        peer = instance.peer
        client: RpcClient[object] = RpcClient(peer.endpoint, PeerMessage, secret=self._secret)
        request = SelfTestRequest(
            instance=peer.instance, incarnation=peer.incarnation, peers=tuple(other.peer for other in peers)
        )
        try:
            reply = await client.call(request, deadline_s=self._deadline_s)
        except MemserveError as error:
            _log.warning("%s does not try its paths out: %s", peer.instance, error)
            return ()
        finally:
            await client.close()
        return reply.checks if isinstance(reply, SelfTestReply) else ()

    def __repr__(self) -> str:
        wrong = sum(not check.is_right for check in self._checks.values())
        return f"SelfTests({len(self._checks)} paths, {wrong} not usable)"


def _has_memory(instance: InstanceView) -> bool:
    return instance.peer.arena is not None or bool(instance.peer.data)
