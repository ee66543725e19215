"""Commands of an operator sent to a gateway, and the progress that is printed until they are done."""

import asyncio
import sys

import msgspec

from memserve.cli.admin import CHANGE_S, ask
from memserve.core.enums import Role
from memserve.core.errors import ConfigError, InstanceUnavailable
from memserve.manager.operations import Operation, OperationState
from memserve.security.gateway_access import ANY_GATEWAY, GatewayAccess

_POLL_S = 0.3


class _Begun(msgspec.Struct, frozen=True, kw_only=True):
    operations: tuple[Operation, ...]


def carry_out(url: str, path: str, send: object, *, wait_for_end: bool, access: GatewayAccess = ANY_GATEWAY) -> None:
    """Raises ConfigError when the gateway refuses it, InstanceUnavailable when it has failed or none answers."""
    asyncio.run(_command(url, path, send, access, wait_for_end=wait_for_end))


def parse_numbers(texts: list[str]) -> dict[Role, int]:
    """Raises ConfigError on what is no role, no number, or said twice."""
    wanted: dict[Role, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in set(Role) or not number.lstrip("-").isdecimal() or Role(name) in wanted:
            raise ConfigError(
                f'"{text}": write ROLE=NUMBER, each role once, with one of {", ".join(Role)}; for example prefill=2'
            )
        wanted[Role(name)] = int(number)
    return wanted


async def _command(url: str, path: str, send: object, access: GatewayAccess, *, wait_for_end: bool) -> None:
    """Raises ConfigError when it is refused or has failed."""
    begun = await ask(url, path, _Begun, method="POST", send=send, deadline_s=CHANGE_S, access=access)
    if not begun.operations:
        sys.stdout.write("nothing to do: it is so already\n")
    for operation in begun.operations:
        _show(operation)
    if wait_for_end:
        ended = await asyncio.gather(*(_follow(url, operation, access) for operation in begun.operations))
        failed = [o for o in ended if o.state is OperationState.FAILED]
        if failed:
            raise InstanceUnavailable("; ".join(f"{o.kind} {o.instance} failed: {o.step}" for o in failed))


async def _follow(url: str, operation: Operation, access: GatewayAccess) -> Operation:
    """Until it has ended; a line for each step."""
    while operation.state is OperationState.RUNNING:
        await asyncio.sleep(_POLL_S)
        now = await ask(url, f"/admin/operations/{operation.id}", Operation, access=access)
        if now != operation and now.state is not OperationState.FAILED:
            _show(now)
        operation = now
    return operation


def _show(operation: Operation) -> None:
    done = "done, " if operation.state is OperationState.DONE else ""
    sys.stdout.write(f"{operation.kind} {operation.instance}: {done}{operation.step}\n")
    sys.stdout.flush()
