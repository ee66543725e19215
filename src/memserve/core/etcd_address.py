"""How a place in etcd is written: etcd://HOST:PORT,HOST:PORT, perhaps with /CLUSTER."""

import re

from memserve.core.errors import ConfigError

_ETCD = "etcd://"
_ENDPOINT = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\[\]:/,]+):(\d{1,5})")


def is_etcd(join: str) -> bool:
    return join.startswith(_ETCD)


def parse_etcd(join: str) -> tuple[tuple[str, ...], str]:
    """Endpoints and cluster ("" where none is named) of "etcd://HOST:PORT,HOST:PORT/CLUSTER". Raises ConfigError."""
    hosts, _, cluster = join.removeprefix(_ETCD).partition("/")
    endpoints = tuple(hosts.split(","))
    found = [_ENDPOINT.fullmatch(endpoint) for endpoint in endpoints]
    if not is_etcd(join) or not all(match is not None and int(match[2]) <= 65535 for match in found):
        raise ConfigError(f'"{join}" names no etcd: write for example etcd://10.0.0.1:2379,10.0.0.2:2379')
    return endpoints, cluster
