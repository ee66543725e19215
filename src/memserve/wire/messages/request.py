"""Gateway to connector, inside kv_transfer_params."""

from memserve.core.enums import Phase, TransferMode
from memserve.core.ids import RequestId
from memserve.wire.messages.base import PeerInfo, Record


class RequestParams(Record, frozen=True):
    """Value of kv_transfer_params["memserve"]: what the gateway wants the instance to do."""

    request: RequestId
    phase: Phase
    peer: PeerInfo | None = None
    """For PREFILL, the decode instance that takes the KV; for DECODE, the prefill instance to return it to."""
    transfer: TransferMode | None = None
    """How the KV leaves; None: as the instance was configured."""
    source: PeerInfo | None = None
    """An instance that holds more of the prompt: pull that before computing."""
    num_given: int = 0
    """For DECODE: last tokens of the prompt that the client has been given already. The prefill instance produced
    them, so what it hands over ends before them."""
