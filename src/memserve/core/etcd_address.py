"""How a place in etcd is written: etcd://HOST:PORT,HOST:PORT, perhaps with /CLUSTER, and etcds:// for TLS.

What TLS and a login need comes behind, as paths: etcds://HOST:PORT?ca=FILE&cert=FILE&key=FILE&user=NAME&password=FILE.
So one line says it all wherever it is handed on: to instances, on command lines, in settings. No password stands in it.
"""

import re
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec

from memserve.core.errors import ConfigError

_PLAIN, _TLS = "etcd://", "etcds://"
_ENDPOINT = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\[\]:/,]+):(\d{1,5})")
_FILES = ("ca", "cert", "key", "password")


class EtcdAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where etcd is, and how it is talked to; files are absolute paths, "" where none is given."""

    endpoints: tuple[str, ...]
    """Each HOST:PORT."""
    cluster: str = ""
    has_tls: bool = False
    ca: str = ""
    """PEM file of who issued etcd's certificate; "" is what the system trusts."""
    cert: str = ""
    """PEM file of the certificate that etcd is shown."""
    key: str = ""
    """PEM file of its key; "" when that is in `cert`, too."""
    user: str = ""
    password: str = ""
    """File that holds it."""


def is_etcd(join: str) -> bool:
    return join.startswith((_PLAIN, _TLS))


def parse_etcd(join: str) -> EtcdAddress:
    """Raises ConfigError."""
    place, _, options = join.removeprefix(_TLS).removeprefix(_PLAIN).partition("?")
    hosts, _, cluster = place.partition("/")
    endpoints = tuple(hosts.split(","))
    found = [_ENDPOINT.fullmatch(endpoint) for endpoint in endpoints]
    if not is_etcd(join) or not all(match is not None and int(match[2]) <= 65535 for match in found):
        raise ConfigError(f'"{join}" names no etcd: write for example etcd://10.0.0.1:2379,10.0.0.2:2379')
    has_tls = join.startswith(_TLS)
    return EtcdAddress(
        endpoints=endpoints, cluster=cluster, has_tls=has_tls, **_options(join, options, has_tls=has_tls)
    )


def _options(join: str, text: str, *, has_tls: bool) -> dict[str, str]:
    """Raises ConfigError for what is unknown or does not go together."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    except ValueError as error:
        raise ConfigError(f'"{join}": {error}; write for example etcds://HOST:2379?ca=/etc/etcd/ca.pem') from error
    given = dict(pairs)
    if len(given) != len(pairs) or not given.keys() <= {*_FILES, "user"} or not all(given.values()):
        raise ConfigError(f'"{join}": behind "?" stand ca, cert, key, user and password, each once and with a value')
    for name in _FILES:
        if name in given and not Path(given[name]).is_absolute():
            raise ConfigError(f'"{join}": {name}={given[name]} is no absolute path; instances read that file, too')
    if not has_tls and given:
        raise ConfigError(f'"{join}": {", ".join(given)} would be of no use, or in the clear: write {_TLS}')
    if ("key" in given and "cert" not in given) or ("user" in given) != ("password" in given):
        raise ConfigError(f'"{join}": give a key with its cert, and user and password together')
    return given
