"""Errors by who can act on them. Each message says what is wrong, the numbers, and what to do.

Trouble with cached KV is not among what a request can see: it becomes a miss and is recomputed.
"""


class MemserveError(Exception):
    """Base of everything that memserve raises on purpose."""


class ConfigError(MemserveError):
    """The operator changes a setting, a path or a machine; the message names which and to what."""


class PoolExhausted(MemserveError):
    """The caller goes on without (a miss), frees something, or asks for less."""


class QuotaExceeded(MemserveError):
    """The caller asks for less or gives something up, or the operator raises the share that the message names."""


class InvalidBlocks(MemserveError):
    """The caller handed over blocks that are not its to use: freed, stale, foreign or twice the same."""


class InvalidLease(MemserveError):
    """The caller asked for a hold that cannot be: its time to live is not a positive number of seconds."""


class InvalidTokens(MemserveError):
    """The caller handed over tokens that do not fit the call: empty, not aligned to blocks, wrong type."""


class InstanceUnavailable(MemserveError):
    """The caller tries another instance or goes on without; the cluster manager already looks into it."""


class DeadlineExceeded(InstanceUnavailable):
    """No answer in time. The outcome of the call is unknown; ids make a repeat harmless."""


class RegistryUnavailable(InstanceUnavailable):
    """The caller goes on with what it knew of the cluster; what cannot be made known to the others is not changed."""


class LeaseLost(MemserveError):
    """The caller was taken for dead: what it held is gone, and it begins anew if it goes on."""


class NotIntroduced(InstanceUnavailable):
    """The peer does not know who asks, and has done nothing: the caller says hello and asks again."""


class LineUnavailable(InstanceUnavailable):
    """No line leads to the peer, and it was asked nothing: the caller takes the control connection."""


class SecretRefused(ConfigError, InstanceUnavailable):
    """The two ends do not share a cluster secret. The operator gives both the same; until then nobody answers here."""


class ProtocolError(MemserveError):
    """The peer sent what cannot be understood. The connection is closed; the pool is unharmed."""


class IdentityMismatch(MemserveError):
    """Two instances cannot share KV; the message names the fields that differ and both values."""


class TransferFailed(MemserveError):
    """Blocks did not arrive whole. Nothing became visible; the caller recomputes or tries again."""


class StorageFailed(MemserveError):
    """A block on disk could not be read as it was written, or not be written. Its entry goes, or it stays where it was.

    Not the same as a block that is not there: operators see these counted, and look at the disk.
    """


class IllegalTransition(MemserveError):
    """A bug in memserve: a state machine was asked for a move that its table lacks."""


class InvariantError(MemserveError):
    """A bug in memserve: please report it with the text of the message."""
