"""Prompts that the instances are to keep: an operator pins them, sees them and lets them go.

Owns what is asked of whom and how the answers are put together; which blocks, and how many may be, the pools decide.
A pin has the same name on every instance, so nothing is remembered here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from memserve.cluster.view import InstanceState, InstanceView
from memserve.core.errors import MemserveError, QuotaExceeded
from memserve.core.ids import InstanceId, PinId
from memserve.gateway.errors import ApiError, bad_request, unavailable
from memserve.gateway.json_answer import JsonAnswer
from memserve.gateway.request_body import ClientRequest, parse
from memserve.gateway.runtime import GatewayRuntime
from memserve.wire.messages import PeerInfo, Pinned

T = TypeVar("T")

_PATHS = {"messages": "/v1/chat/completions", "prompt": "/v1/completions"}
_THERE = (InstanceState.ACTIVE, InstanceState.SUSPECT, InstanceState.DRAINING)


class PinPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a pin holds, and how much of the prompt."""

    instance: InstanceId
    num_tokens: int
    num_blocks: int


class PinRefusal(msgspec.Struct, frozen=True, kw_only=True):
    instance: InstanceId
    message: str


class PinView(msgspec.Struct, frozen=True, kw_only=True):
    """One pin over all instances."""

    pin: PinId
    num_tokens: int
    """Of the prompt, in whole blocks."""
    instances: tuple[PinPlace, ...]
    refused: tuple[PinRefusal, ...] = ()
    """Instances that hold the prompt and do not pin it, or did not answer."""


class PinRoutes:
    def __init__(self, runtime: GatewayRuntime) -> None:
        self._runtime = runtime
        self._context = runtime.context

    def routes(self) -> list[Route]:
        return [
            Route("/admin/pins", self.pin, methods=["POST"]),
            Route("/admin/pins", self.pins, methods=["GET"]),
            Route("/admin/pins/{pin}", self.unpin, methods=["DELETE"]),
        ]

    async def pin(self, request: Request) -> Response:
        """Pin the prompt of a body as for a completion on every instance that holds some of it.

        404 where none does, 409 when all that do refuse.
        """
        asked = parse(await request.body())
        tokens = await self._tokens(asked)
        namespace = await self._runtime.namespace(asked)
        pools = self._context.pools
        pinned, refused = await self._ask(lambda peer: pools.pin(peer, tokens=tokens, namespace=namespace))
        places = _views(pinned)
        if places:
            return JsonAnswer(msgspec.structs.replace(places[0], refused=refused))
        if refused:
            raise ApiError(
                "; ".join(f"{r.instance}: {r.message}" for r in refused), status=HTTPStatus.CONFLICT, param="prompt"
            )
        raise ApiError(
            f"no instance has cached a whole block of these {len(tokens) // 4} tokens: send the prompt first, then pin",
            status=HTTPStatus.NOT_FOUND,
        )

    async def pins(self, _: Request) -> Response:
        """All pins of all instances that answer."""
        found, silent = await self._ask(self._context.pools.pins)
        listed = [(instance, pinned) for instance, pins in found for pinned in pins]
        return JsonAnswer({"pins": _views(listed), "silent": silent})

    async def unpin(self, request: Request) -> Response:
        """Let it go everywhere; 404 when no instance has it."""
        pin = PinId(request.path_params["pin"])
        found, silent = await self._ask(lambda peer: self._context.pools.unpin(peer, pin=pin))
        instances = [instance for instance, was_pinned in found if was_pinned]
        if not instances and silent:
            raise unavailable("; ".join(f"{s.instance}: {s.message}" for s in silent))
        if not instances:
            raise ApiError(f"no pin {pin}; GET /admin/pins lists them", status=HTTPStatus.NOT_FOUND)
        return JsonAnswer({"pin": pin, "instances": instances, "silent": silent})

    async def _tokens(self, asked: ClientRequest) -> bytes:
        field = next((name for name in _PATHS if asked.values.get(name)), None)
        if field is None:
            raise bad_request('name what to pin: "messages" as for a chat, or "prompt"', param="prompt")
        tokens = await self._context.tokenizer.tokens(path=_PATHS[field], body=asked.values)
        if not tokens:
            raise bad_request(f"these {field} cannot be turned into tokens", param=field)
        return tokens

    async def _ask(
        self, question: Callable[[PeerInfo], Awaitable[T]]
    ) -> tuple[list[tuple[InstanceId, T]], tuple[PinRefusal, ...]]:
        """Ask all instances at a time: their answers, and what those say that do not."""
        instances = [view for view in self._context.cluster.view.instances if view.state in _THERE]
        answers = await asyncio.gather(*(_answer(question, instance) for instance in instances))
        given = [(view.instance, a[0]) for view, a in zip(instances, answers, strict=True) if isinstance(a, tuple)]
        return given, tuple(answer for answer in answers if isinstance(answer, PinRefusal))


async def _answer(question: Callable[[PeerInfo], Awaitable[T]], instance: InstanceView) -> tuple[T] | PinRefusal:
    try:
        return (await question(instance.peer),)
    except QuotaExceeded as error:
        return PinRefusal(instance=instance.instance, message=str(error))
    except MemserveError as error:
        return PinRefusal(instance=instance.instance, message=f"{type(error).__name__}: {error}")


def _views(found: list[tuple[InstanceId, Pinned]]) -> list[PinView]:
    """One for each pin that holds anything, in the order in which they came."""
    by_pin: dict[PinId, list[tuple[InstanceId, Pinned]]] = {}
    for instance, pinned in found:
        if pinned.num_blocks:
            by_pin.setdefault(pinned.pin, []).append((instance, pinned))
    return [
        PinView(
            pin=pin,
            num_tokens=held[0][1].num_tokens,
            instances=tuple(
                PinPlace(instance=instance, num_tokens=pinned.num_pinned_tokens, num_blocks=pinned.num_blocks)
                for instance, pinned in held
            ),
        )
        for pin, held in by_pin.items()
    ]
