"""The child's side of a benchmark: one JSON request a line on stdin, one JSON reply a line on stdout.

The first line tells the version, or why the system cannot be measured here. Whatever the system itself
prints goes to stderr. A request that fails is answered with its error, and the child goes on.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Handler = Callable[[dict[str, Any]], Any]


class System(NamedTuple):
    """What a child offers."""

    version: str
    handlers: Mapping[str, Handler]


def serve(start: Callable[[], System]) -> None:
    """Answer until stdin ends. An ImportError, OSError or RuntimeError of `start` is reported as the reason."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(**fields: Any) -> None:
        replies.write(json.dumps(fields) + "\n")

    try:
        system = start()
    except (ImportError, OSError, RuntimeError) as error:
        reply(missing=f"{type(error).__name__}: {error}")
        return
    reply(version=system.version)
    for line in sys.stdin:
        request = json.loads(line)
        handler = system.handlers[request.pop("do")]
        try:
            reply(value=handler(request))
        except Exception as error:
            reply(error=f"{type(error).__name__}: {error}")
