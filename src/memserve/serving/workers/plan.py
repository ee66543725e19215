"""All that a further worker is told when it starts: settings, where it follows, and where it listens.

Owns the shape, and its way to the process: a file in memory that the child inherits, as there are keys in it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from memserve.config import ServeConfig
from memserve.security.https import ServerCertificate
from memserve.serving.routing import RoutingFacts


class WorkerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Of one worker. Holds keys: it is never logged, and stands on no command line."""

    worker: int
    head: str
    """Endpoint of worker 0."""
    key: bytes
    """What worker 0 and the others prove to know when they talk."""
    config: ServeConfig
    """As worker 0's, with the model found and the paths absolute."""
    model_name: str
    port: int
    certificate: ServerCertificate | None
    facts: RoutingFacts


@contextmanager
def handed(plan: WorkerPlan) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """As an argument and a descriptor that the child inherits; fits memserve.manager.child.Handed."""
    fd = os.memfd_create("memserve-worker", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(msgspec.msgpack.encode(plan))
        yield (str(fd),), (fd,)
    finally:
        os.close(fd)


def read_plan(fd: int) -> WorkerPlan:
    """What was handed to this process. Raises msgspec.MsgspecError when it is none."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return msgspec.msgpack.decode(file.read(), type=WorkerPlan)
