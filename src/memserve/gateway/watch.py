"""Which work depends on which instance: ends it when that incarnation leaves the view.

Owns the scopes of work in progress by instance. An upstream that stalls without closing its connection
is noticed here, because the cluster manager declares the instance dead.
"""

from collections.abc import Callable
from types import TracebackType

from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.ids import Incarnation, InstanceId
from memserve.gateway.ending import Scope, scope
from memserve.gateway.errors import InstanceLost

Member = tuple[InstanceId, Incarnation]


class InstanceWatch:
    def __init__(self, on_left: Callable[[InstanceId, Incarnation], None]) -> None:
        """`on_left` is called once for each incarnation that is no longer in the view."""
        self._on_left = on_left
        self._members: set[Member] = set()
        self._view: ClusterView | None = None
        self._scopes: dict[Member, set[Scope]] = {}

    def using(self, instance: InstanceView) -> "_Use":
        """Run the block as long as this incarnation is in the cluster; raises InstanceLost when it leaves."""
        return _Use(self._scopes, (instance.instance, instance.incarnation))

    def update(self, view: ClusterView) -> None:
        """Compare with the view before; idempotent for the same view."""
        if view is self._view:
            return
        self._view = view
        members = {(i.instance, i.incarnation) for i in view.instances if i.state is not InstanceState.LEFT}
        for member in self._members - members:
            self._on_left(*member)
        self._members = members
        for member in [m for m in self._scopes if m not in members]:
            self._end(member)

    def _end(self, member: Member) -> None:
        instance, incarnation = member
        for handle in self._scopes.pop(member):
            handle.end(InstanceLost("left the cluster", instance=instance, incarnation=incarnation))

    def __repr__(self) -> str:
        working = {f"{i}@{n}": len(scopes) for (i, n), scopes in self._scopes.items()}
        return f"InstanceWatch(members={len(self._members)}, working={working})"


class _Use:
    """One block that depends on one member."""

    __slots__ = ("_all", "_handle", "_member", "_scope", "_scopes")

    def __init__(self, everybodys: dict[Member, set[Scope]], member: Member) -> None:
        self._all = everybodys
        self._member = member
        self._scope = scope()

    async def __aenter__(self) -> None:
        self._handle = await self._scope.__aenter__()
        self._scopes = self._all.setdefault(self._member, set())
        self._scopes.add(self._handle)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._scopes.discard(self._handle)
        if not self._scopes and self._all.get(self._member) is self._scopes:
            del self._all[self._member]
        await self._scope.__aexit__(kind, error, traceback)
