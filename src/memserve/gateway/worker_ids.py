"""Which process of a gateway has a request: its id ends with the worker's number, where there are several.

So no two workers ever use one id, whatever their clients call their requests, and what instances report, and what
operators ask for, finds its way without asking around. Owns that ending and nothing else.
"""

import re

from memserve.core.ids import RequestId

_ENDING = re.compile(r"-w(\d{1,4})\Z")


def ending_of(worker: int) -> str:
    """What the ids of this worker's requests end with."""
    return f"-w{worker}"


def owner_of(request: RequestId) -> int | None:
    """The worker whose request this is; None when its id names none."""
    found = _ENDING.search(request)
    return int(found[1]) if found is not None else None
