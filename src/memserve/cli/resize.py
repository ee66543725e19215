"""`memserve resize`: the DRAM tier of one instance's pool grown or shrunk while it serves."""

import asyncio

import aiohttp
import msgspec
from rich.console import Console

from memserve.cli.sizes import size_text
from memserve.config import parse_size
from memserve.core.errors import ConfigError, InstanceUnavailable
from memserve.wire.messages import ResizeReply

_DEADLINE_S = 70.0


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    message: str


class _Error(msgspec.Struct, frozen=True, kw_only=True):
    error: _Refusal


def run_resize(instance: str, *, dram: str, url: str) -> None:
    """Raises ConfigError with what the instance answers, InstanceUnavailable when no gateway does."""
    parse_size(dram, "--dram")
    reply = asyncio.run(_resize(instance, dram=dram, url=url.rstrip("/")))
    before, after = reply.before, reply.after
    Console(highlight=False, soft_wrap=True).print(
        f"{instance}: DRAM {size_text(before.num_blocks * reply.block_bytes)} -> "
        f"{size_text(after.num_blocks * reply.block_bytes)}, "
        f"{before.num_blocks} -> {after.num_blocks} blocks, cached {before.num_cached} -> {after.num_cached}"
    )


async def _resize(instance: str, *, dram: str, url: str) -> ResizeReply:
    target = f"{url}/admin/instances/{instance}/pool"
    timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.put(target, json={"dram": dram}) as answer,
        ):
            body = await answer.read()
            if answer.status != 200:
                raise ConfigError(msgspec.json.decode(body, type=_Error).error.message)
            return msgspec.json.decode(body, type=ResizeReply)
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        raise InstanceUnavailable(
            f"no memserve gateway answers at {url} ({error or type(error).__name__}); "
            "name the right one: memserve resize INSTANCE --dram SIZE --url URL"
        ) from error
