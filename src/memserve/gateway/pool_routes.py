"""What an operator changes about the instances' pools while they serve.

Owns the shape of the requests and what a refusal looks like; the pools decide.
"""

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from memserve.cluster.view import InstanceView
from memserve.core.enums import DataPath
from memserve.core.errors import ConfigError, InstanceUnavailable, MemserveError
from memserve.core.ids import InstanceId
from memserve.core.notation import parse_size
from memserve.gateway.context import GatewayContext
from memserve.gateway.errors import ApiError, bad_request, unavailable
from memserve.gateway.json_answer import JsonAnswer

_log = logging.getLogger(__name__)


class PoolSize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dram: str
    """E.g. "2GiB"."""


class InstancePath(msgspec.Struct, frozen=True, kw_only=True):
    """Between two instances, as `instance` sees it."""

    instance: InstanceId
    peer: InstanceId
    path: DataPath | None
    """How it takes blocks from the peer and brings KV to it."""


class PoolRoutes:
    def __init__(self, context: GatewayContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        return [
            Route("/admin/instances/{instance}/pool", self.resize, methods=["PUT"]),
            Route("/admin/paths", self.paths),
        ]

    async def paths(self, _: Request) -> Response:
        """By which ways KV goes between each two instances, as they say themselves; those that do not are left out."""
        instances = self._context.cluster.view.instances
        rows = await asyncio.gather(*(self._paths_of(one, instances) for one in instances))
        return JsonAnswer({"paths": [path for row in rows for path in row]})

    async def _paths_of(self, one: InstanceView, all_of_them: Sequence[InstanceView]) -> list[InstancePath]:
        others = tuple(other.peer for other in all_of_them if other is not one)
        try:
            found = await self._context.pools.paths(one.peer, others=others) if others else ()
        except MemserveError as error:
            _log.info("%s does not say how KV comes to it: %s", one.instance, error)
            return []
        return [InstancePath(instance=one.instance, peer=p.peer, path=p.path) for p in found]

    async def resize(self, request: Request) -> Response:
        """Grow or shrink an instance's DRAM tier: {"dram": "2GiB"}. 409 with the numbers when that cannot be now."""
        try:
            asked = msgspec.json.decode(await request.body(), type=PoolSize)
            num_bytes = parse_size(asked.dram, "dram")
        except (msgspec.MsgspecError, ConfigError) as error:
            raise bad_request(f'{error}; send {{"dram": "2GiB"}}', param="dram") from error
        instance = self._instance(InstanceId(request.path_params["instance"]))
        try:
            reply = await self._context.pools.resize(instance.peer, num_bytes=num_bytes)
        except InstanceUnavailable as error:
            raise unavailable(str(error)) from error
        except MemserveError as error:
            raise ApiError(f"{instance.instance}: {error}", status=HTTPStatus.CONFLICT, param="dram") from error
        return JsonAnswer(reply)

    def _instance(self, name: InstanceId) -> InstanceView:
        instances = self._context.cluster.view.instances
        found = next((instance for instance in instances if instance.instance == name), None)
        if found is None:
            there = ", ".join(instance.instance for instance in instances) or "none"
            raise ApiError(f"no instance {name} in this cluster; there are: {there}", status=HTTPStatus.NOT_FOUND)
        return found
