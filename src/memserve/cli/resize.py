"""`memserve resize`: the DRAM tier of one instance's pool grown or shrunk while it serves."""

import asyncio
from urllib.parse import quote

from rich.console import Console

from memserve.cli.admin import CHANGE_S, ask
from memserve.cli.sizes import size_text
from memserve.core.notation import parse_size
from memserve.security.gateway_access import ANY_GATEWAY, GatewayAccess
from memserve.wire.messages import ResizeReply


def run_resize(instance: str, *, dram: str, url: str, access: GatewayAccess = ANY_GATEWAY) -> None:
    """Raises ConfigError with what the instance answers, InstanceUnavailable when no gateway does."""
    parse_size(dram, "--dram")
    reply = asyncio.run(
        ask(
            url,
            f"/admin/instances/{quote(instance, safe='')}/pool",
            ResizeReply,
            method="PUT",
            send={"dram": dram},
            deadline_s=CHANGE_S,
            access=access,
        )
    )
    before, after = reply.before, reply.after
    Console(highlight=False, soft_wrap=True).print(
        f"{instance}: DRAM {size_text(before.num_blocks * reply.block_bytes)} -> "
        f"{size_text(after.num_blocks * reply.block_bytes)}, "
        f"{before.num_blocks} -> {after.num_blocks} blocks, cached {before.num_cached} -> {after.num_cached}"
    )
