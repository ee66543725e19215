"""One question to the admin API of a gateway. Owns how its refusals and its absence become errors."""

from typing import TypeVar

import aiohttp
import msgspec

from memserve.core.errors import ConfigError, InstanceUnavailable

T = TypeVar("T")

_DEADLINE_S = 70.0


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    message: str


class _Error(msgspec.Struct, frozen=True, kw_only=True):
    error: _Refusal


async def ask(url: str, path: str, shape: type[T], *, send: object | None = None) -> T:
    """GET, or POST of `send` as JSON; the answer in its shape.

    Raises ConfigError with what the gateway says against it, InstanceUnavailable when none answers.
    """
    method = "GET" if send is None else "POST"
    body = None if send is None else msgspec.json.encode(send)
    target = f"{url.rstrip('/')}{path}"
    try:
        timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, target, data=body) as answer,
        ):
            content = await answer.read()
            if answer.status >= 400:
                raise ConfigError(msgspec.json.decode(content, type=_Error).error.message)
            return msgspec.json.decode(content, type=shape)
    except (aiohttp.ClientError, TimeoutError, ValueError, msgspec.DecodeError) as error:
        raise InstanceUnavailable(
            f"no memserve gateway answers at {url} ({error or type(error).__name__}); name the right one with --url URL"
        ) from error
