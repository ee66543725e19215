"""How settings write sizes and addresses: "512MiB", "127.0.0.1:7000".

Owns the reading of both; whoever reads one says what it is, and that is in the ConfigError. Never resolves a name.
"""

import re

from memserve.core.errors import ConfigError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_address(text: str, what: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT". Raises ConfigError that names `what`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f'{what} = "{text}" is no address: write for example "127.0.0.1:7000"')
    return host, int(port)


def parse_size(text: str, what: str) -> int:
    """Bytes of "512MiB", "4 GiB", "1e3" not allowed. Raises ConfigError that names `what`."""
    found = _SIZE.fullmatch(text)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise ConfigError(f'{what} = "{text}" is not a size: write for example "512MiB" or "4GiB"')
    return int(float(found[1]) * unit)
