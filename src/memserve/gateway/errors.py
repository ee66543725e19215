"""What a client may be told, in the form OpenAI's clients read: {"error": {message, type, param, code}}.

Owns the mapping from our errors to statuses; the types are the words that vLLM uses for the same status.
"""

from http import HTTPStatus

import msgspec

from memserve.core.errors import InstanceUnavailable, MemserveError
from memserve.core.ids import Incarnation, InstanceId

_KINDS = {
    HTTPStatus.BAD_REQUEST: "BadRequestError",
    HTTPStatus.UNAUTHORIZED: "AuthenticationError",
    HTTPStatus.NOT_FOUND: "NotFoundError",
    HTTPStatus.REQUEST_TIMEOUT: "RequestTimeoutError",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RequestEntityTooLargeError",
    HTTPStatus.TOO_MANY_REQUESTS: "RateLimitError",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalServerError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailableError",
    HTTPStatus.GATEWAY_TIMEOUT: "GatewayTimeoutError",
}


class ApiError(MemserveError):
    """The client reads it: an error answer with this status, or an error event once a stream has begun."""

    def __init__(
        self, message: str, *, status: int, param: str | None = None, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(message)
        self.status = HTTPStatus(status)
        self.param = param
        self.headers = headers
        """Sent with an error answer beside its content type."""

    def body(self) -> bytes:
        """The JSON body; also the data of an error event."""
        kind = _KINDS.get(self.status, self.status.phrase)
        error = {"message": str(self), "type": kind, "param": self.param, "code": int(self.status)}
        return msgspec.json.encode({"error": error})


class InstanceLost(InstanceUnavailable):
    """The request flow tries elsewhere: this instance did not answer, failed, or left the cluster."""

    def __init__(self, why: str, *, instance: InstanceId, incarnation: Incarnation) -> None:
        super().__init__(f"instance {instance} {why}")
        self.instance = instance
        self.incarnation = incarnation


class ClientGone(MemserveError):
    """Nobody reads any more: everything held for the request is released, nothing is sent."""


def bad_request(message: str, *, param: str | None = None) -> ApiError:
    return ApiError(message, status=HTTPStatus.BAD_REQUEST, param=param)


def unavailable(message: str) -> ApiError:
    return ApiError(message, status=HTTPStatus.SERVICE_UNAVAILABLE)
