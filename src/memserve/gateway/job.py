"""What one request asks for and who works for it. Owns data only."""

import msgspec

from memserve.cluster.view import InstanceView
from memserve.core.ids import RequestId
from memserve.gateway.client_connection import RawHeaders
from memserve.gateway.continuable import Continuable
from memserve.gateway.request_body import ClientRequest
from memserve.wire.identity import Namespace
from memserve.wire.messages import PeerInfo


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, ready to be routed."""

    id: RequestId
    path: str
    request: ClientRequest
    headers: RawHeaders
    """For the engines; among them the request id, which vLLM makes part of its answer's id."""
    session: str
    """Which conversation it belongs to, where the client says so."""
    tokens: bytes
    """The prompt as int32, for routing; b"" when it is not known."""
    namespace: Namespace
    """Root of the prompt's KV."""
    alone: bool
    """One instance has to do all of it."""
    plan: Continuable | None
    """How it may be continued elsewhere; None: not at all."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes part in one attempt."""

    prefill: InstanceView | None
    """None: `decode` does all of it."""
    decode: InstanceView
    source: PeerInfo | None
    """Holds more of the prompt than the one that computes it."""
