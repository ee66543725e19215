"""Commands that change the cluster while it serves, and how far they are: scale, drain, role, join.

Owns the shape of the requests and what a refusal looks like (409 with the reason, nothing changed); the cluster
manager decides and carries them out. A command that takes time is answered at once with its operations (202).
"""

from http import HTTPStatus
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from memserve.core.enums import Role
from memserve.core.errors import ConfigError, InstanceUnavailable
from memserve.core.ids import InstanceId
from memserve.gateway.context import GatewayContext
from memserve.gateway.errors import ApiError, bad_request
from memserve.gateway.json_answer import JsonAnswer
from memserve.manager.operations import Operation

T = TypeVar("T")


class DrainCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    instance: InstanceId


class RoleCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    instance: InstanceId
    role: Role


class ElasticityRoutes:
    def __init__(self, context: GatewayContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        return [
            Route("/admin/join", self.join),
            Route("/admin/autoscaler", self.autoscaler),
            Route("/admin/operations", self.operations),
            Route("/admin/operations/{number:int}", self.operation),
            Route("/admin/scale", self.scale, methods=["POST"]),
            Route("/admin/drain", self.drain, methods=["POST"]),
            Route("/admin/role", self.role, methods=["POST"]),
        ]

    async def join(self, _: Request) -> Response:
        """Where instances join this cluster."""
        return JsonAnswer({"manager": self._context.cluster.endpoint})

    async def autoscaler(self, _: Request) -> Response:
        """What it sees, what it would have for right, and the latest 50 changes that it wanted."""
        return JsonAnswer(self._context.autoscaler())

    async def operations(self, _: Request) -> Response:
        """The latest 256, newest last."""
        return JsonAnswer({"operations": self._context.elasticity.operations.latest()})

    async def operation(self, request: Request) -> Response:
        number = request.path_params["number"]
        found = self._context.elasticity.operations.find(number)
        if found is None:
            raise ApiError(f"there is no operation {number}, or no longer", status=HTTPStatus.NOT_FOUND)
        return JsonAnswer(found)

    async def scale(self, request: Request) -> Response:
        """{"prefill": 2, "decode": 1}: start and drain instances until there are so many; others stay."""
        example = '{"prefill": 2, "decode": 1}'
        wanted = _read(await request.body(), dict[Role, int], example)
        if not wanted:
            raise bad_request(f"no role is named; send {example}")
        try:
            return _begun(*await self._context.elasticity.scale(wanted))
        except (ConfigError, InstanceUnavailable) as error:
            raise _refused(error) from error

    async def drain(self, request: Request) -> Response:
        """{"instance": "decode-0"}: no new requests; it finishes what it has, hands its cache on and goes."""
        command = _read(await request.body(), DrainCommand, '{"instance": "decode-0"}')
        try:
            return _begun(await self._context.elasticity.drain(command.instance))
        except (ConfigError, InstanceUnavailable) as error:
            raise _refused(error) from error

    async def role(self, request: Request) -> Response:
        """{"instance": "prefill-1", "role": "decode"}: from the next request on, without a restart."""
        command = _read(await request.body(), RoleCommand, '{"instance": "prefill-1", "role": "decode"}')
        try:
            return _begun(await self._context.elasticity.change_role(command.instance, command.role))
        except (ConfigError, InstanceUnavailable) as error:
            raise _refused(error) from error


def _read(body: bytes, shape: type[T], example: str) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.MsgspecError as error:
        raise bad_request(f"{error}; send {example}") from error


def _refused(error: ConfigError | InstanceUnavailable) -> ApiError:
    is_wrong = isinstance(error, ConfigError)
    return ApiError(str(error), status=HTTPStatus.CONFLICT if is_wrong else HTTPStatus.SERVICE_UNAVAILABLE)


def _begun(*operations: Operation) -> Response:
    return JsonAnswer({"operations": operations}, status_code=HTTPStatus.ACCEPTED)
