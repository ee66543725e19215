"""When an incarnation may come into the cluster under its name: the same for whoever keeps the list of members."""

from memserve.core.errors import ConfigError, InstanceUnavailable, LeaseLost
from memserve.core.ids import Incarnation
from memserve.wire.messages import PeerInfo


def check_newest(peer: PeerInfo, newest: Incarnation | None) -> None:
    """Raise InstanceUnavailable when a newer life of this name was here."""
    if newest is not None and peer.incarnation < newest:
        raise InstanceUnavailable(
            f"incarnation {peer.incarnation} of {peer.instance} is older than {newest}, which joined "
            "before: stop the old process, or give each instance its own name"
        )


def name_taken(peer: PeerInfo, present: Incarnation, heard: str) -> ConfigError:
    """The refusal when another process lives under this name; `heard` says how that is known."""
    return ConfigError(
        f"another process is alive as {peer.instance} (incarnation {present}, {heard}): "
        "give each instance its own name, or stop the other one"
    )


def taken_for_dead(peer: PeerInfo) -> LeaseLost:
    """The refusal of a life that was silent for so long that the others have freed what it held."""
    return LeaseLost(
        f"{peer.instance} was not heard of for so long that it is taken for dead, and what it held elsewhere is "
        "freed: this process must end; started again it is welcome"
    )
