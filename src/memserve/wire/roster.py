"""What is written in etcd for one cluster: the keys, and the records under them as JSON.

    /memserve/CLUSTER/state/members/NAME    MemberRecord, under the member's own lease: it is in the cluster
    /memserve/CLUSTER/state/orders/NAME     OrderRecord, under the same lease: what was decided about it
    /memserve/CLUSTER/state/gateways/ID     GatewayRecord, under the gateway's lease
    /memserve/CLUSTER/state/refusals/NAME   RefusalRecord, under the lease of who was refused
    /memserve/CLUSTER/state/turn            written with every order: two of them are never decided at once
    /memserve/CLUSTER/newest/NAME           the newest incarnation of the name, for ever
    /memserve/CLUSTER/loads/NAME            LoadRecord, under the member's lease: its heartbeat

Members follow `state/` only, gateways everything: a heartbeat goes to the gateways alone.
"""

from memserve.core.enums import Role
from memserve.core.ids import Incarnation
from memserve.wire.messages import JoinRequest, Load
from memserve.wire.messages.base import Record

STATE = "state/"
MEMBERS = f"{STATE}members/"
ORDERS = f"{STATE}orders/"
GATEWAYS = f"{STATE}gateways/"
REFUSALS = f"{STATE}refusals/"
TURN = f"{STATE}turn"
NEWEST = "newest/"
LOADS = "loads/"

MEMBER_TTL_S = 20
"""A member that is not heard of for so long is out of the cluster."""
GATEWAY_TTL_S = 10
ROOT = "/memserve/"


class MemberRecord(Record, frozen=True):
    join: JoinRequest


class OrderRecord(Record, frozen=True):
    """Everything that was decided about one incarnation, not only the latest."""

    incarnation: Incarnation
    role: Role | None = None
    """None: as it joined."""
    is_draining: bool = False
    is_dismissed: bool = False


class GatewayRecord(Record, frozen=True):
    manager: str
    """Endpoint of its desk."""
    model: str
    autoscales: bool = False
    """It would change the cluster by itself; of several that would, the oldest record's does."""


class RefusalRecord(Record, frozen=True):
    incarnation: Incarnation
    why: str


class LoadRecord(Record, frozen=True):
    incarnation: Incarnation
    load: Load


def prefix_of(cluster: str) -> str:
    return f"{ROOT}{cluster}/"
