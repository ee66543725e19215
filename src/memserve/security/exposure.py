"""What of a cluster others could reach or read: which listeners need the secret, which paths it cannot cover."""

import ipaddress

from memserve.core.enums import DataPath
from memserve.core.errors import ConfigError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on `host`; a name other than localhost may mean anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, what: str, *, has_secret: bool) -> None:
    """Raise ConfigError that names `what` for a listener that others reach and that asks nobody for the secret."""
    if has_secret or is_loopback(host):
        return
    raise ConfigError(
        f"{what} {host} can be reached from other hosts, and without a cluster secret whoever reaches it may read "
        "and change everything: make one with `memserve secret cluster.secret` and give every process of the cluster "
        "--cluster-secret cluster.secret, or listen on loopback (127.0.0.1)"
    )


def check_plain_paths(paths: tuple[DataPath, ...], *, secret: str, plain_nixl: bool) -> None:
    """Raise ConfigError for a path that cannot be encrypted in a cluster that is to be, unless it is allowed."""
    if secret and DataPath.NIXL in paths and not plain_nixl:
        raise ConfigError(
            'pool.paths names "nixl", whose bytes nobody encrypts, but there is a cluster secret: take it out, or set '
            "pool.plain_nixl = true where nobody else is on that network"
        )
