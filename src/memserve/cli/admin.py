"""One question to the admin API of a gateway. Owns how its refusals and its absence become errors."""

from typing import TypeVar

import aiohttp
import msgspec

from memserve.core.errors import ConfigError, InstanceUnavailable
from memserve.security.gateway_access import ANY_GATEWAY, GatewayAccess
from memserve.security.https import reason_of

T = TypeVar("T")

LOOK_S = 5.0
"""Deadline for what the gateway has at hand."""
CHANGE_S = 70.0
"""Deadline for what it has to ask of an instance first."""


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    message: str


class _Error(msgspec.Struct, frozen=True, kw_only=True):
    error: _Refusal


async def ask(
    url: str,
    path: str,
    shape: type[T],
    *,
    method: str = "GET",
    send: object = None,
    deadline_s: float = LOOK_S,
    option: str = "--url",
    access: GatewayAccess = ANY_GATEWAY,
) -> T:
    """The answer in its shape; `send` goes as JSON, `option` is how the reader names the gateway.

    Raises ConfigError with what the gateway says against it, or when its certificate is not trusted,
    InstanceUnavailable when none answers or it cannot.
    """
    body = None if send is None else msgspec.json.encode(send)
    target, trusted = f"{url.rstrip('/')}{path}", access.trusted()
    try:
        timeout = aiohttp.ClientTimeout(total=deadline_s)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, target, data=body, headers=access.headers(), ssl=trusted) as answer,
        ):
            content = await answer.read()
            if answer.status >= 400:
                refused = ConfigError if answer.status < 500 else InstanceUnavailable
                raise refused(msgspec.json.decode(content, type=_Error).error.message)
            return msgspec.json.decode(content, type=shape)
    except (aiohttp.ClientError, TimeoutError, ValueError, msgspec.DecodeError) as error:
        access.check_trust(url, error)
        raise InstanceUnavailable(
            f"no memserve gateway answers at {url} ({reason_of(error)}); name the right one with {option} URL"
        ) from error
