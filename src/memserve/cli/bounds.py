"""Bounds of the autoscaler as typed: "prefill=1:4,decode=1:2". Owns how they are read and nothing else."""

import re

from memserve.core.enums import Role
from memserve.core.errors import ConfigError

_BOUNDS = re.compile(r"(\w+)=(\d{1,6}):(\d{1,6})")


def parse_bounds(text: str, what: str) -> dict[Role, tuple[int, int]]:
    """Least and most by role of "prefill=1:4,decode=1:2". Raises ConfigError that names `what`."""
    bounds: dict[Role, tuple[int, int]] = {}
    for part in text.split(","):
        found = _BOUNDS.fullmatch(part.strip())
        if found is None or found[1] not in set(Role) or Role(found[1]) in bounds:
            raise ConfigError(f'{what} "{part}": write ROLE=LEAST:MOST, each role once, as in prefill=1:4,decode=1:4')
        bounds[Role(found[1])] = (int(found[2]), int(found[3]))
    return bounds
