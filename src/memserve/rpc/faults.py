"""Errors across a process border: a typed exception becomes an ErrorReply and the same exception again.

Only classes of memserve.core.errors travel, by name; nothing from the wire is ever looked up elsewhere.
"""

from memserve.core import errors
from memserve.core.errors import InvariantError, MemserveError, ProtocolError
from memserve.wire.messages import ErrorReply

MAX_TEXT = 4096
"""Longest error text sent, in characters."""

_CLASSES: dict[str, type[MemserveError]] = {
    name: found for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, MemserveError)
}


def to_reply(error: Exception) -> ErrorReply:
    """What a server answers instead of raising; a foreign exception is a bug and says so."""
    if isinstance(error, MemserveError):
        return ErrorReply(kind=type(error).__name__, text=str(error)[:MAX_TEXT])
    return ErrorReply(kind=InvariantError.__name__, text=f"{type(error).__name__}: {error}"[:MAX_TEXT])


def to_error(reply: ErrorReply) -> MemserveError:
    """What a client raises for an ErrorReply; an unknown kind comes from a newer peer."""
    known = _CLASSES.get(reply.kind)
    return known(reply.text) if known else ProtocolError(f"the peer answered {reply.kind}: {reply.text}")
