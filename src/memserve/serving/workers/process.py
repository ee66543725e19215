"""A further process of a gateway: `python -m memserve.serving.workers.process FD`, started by worker 0 only.

Owns the order of its starting and stopping. It reads its plan from the descriptor that it inherited, follows worker
0, has prompt trees, a scheduler and upstream connections of its own, and listens at the gateway's port. It ends when
it is told to (SIGTERM), and with worker 0: the guard above it sees to that (manager/guard.py).
"""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import uvloop
from starlette.applications import Starlette

from memserve.cluster.view import ClusterView
from memserve.core.clock import Clock, SystemClock
from memserve.core.enums import Role
from memserve.core.errors import ProtocolError
from memserve.gateway.app import create_app
from memserve.gateway.context import GatewayContext
from memserve.gateway.in_process import answer_of
from memserve.gateway.server import Sharing, running
from memserve.gateway.tenants import Tenants
from memserve.gateway.tokenization import load_tokenization
from memserve.gateway.worker_front import WorkerFront
from memserve.gateway.worker_ids import ending_of
from memserve.gateway.worker_messages import AppRequest, Books, Choices, WorkerMessage
from memserve.manager.event_subscriptions import EventSubscriptions
from memserve.manager.role_args import role_args
from memserve.rpc.channel import RpcClient, RpcServer, Sender
from memserve.scheduler.policies import find_policy
from memserve.security.secret import ClusterSecret, read_secret
from memserve.serving.garbage import sparing_what_stays
from memserve.serving.model_facts import served_model
from memserve.serving.parts import GatewayParts, instance_clients
from memserve.serving.routing import make_scheduler
from memserve.serving.signals import StopSignals
from memserve.serving.workers.follower import Follower, draining
from memserve.serving.workers.plan import WorkerPlan, read_plan

_HOST = "127.0.0.1"


def main(arguments: list[str]) -> int:
    """Exit status 0: it was told to stop."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    return uvloop.run(_serve(read_plan(int(arguments[0]))))


async def _serve(plan: WorkerPlan) -> int:
    signals = StopSignals.of_this_task()
    try:
        async with _running(plan):
            with sparing_what_stays():
                await asyncio.Event().wait()
    except asyncio.CancelledError:
        if not signals.asked_to_stop:
            raise
    return 0


@asynccontextmanager
async def _running(plan: WorkerPlan) -> AsyncIterator[None]:
    """Serving when the block begins."""
    key, clock = ClusterSecret(plan.key), SystemClock()
    parts = _Parts(plan, clock)
    async with AsyncExitStack() as stack:
        door = _Door(key)
        stack.push_async_callback(door.server.close)
        await door.server.start()
        head: RpcClient[WorkerMessage] = RpcClient(plan.head, WorkerMessage, secret=key)
        stack.push_async_callback(head.close)
        follower = Follower(
            head,
            worker=plan.worker,
            endpoint=door.server.endpoint,
            books=parts.books,
            on_choices=parts.choose,
            on_report=parts.reports.ingest_own,
        )
        context = await _context(plan, parts, follower, stack)
        await stack.enter_async_context(follower.running())
        subscriptions = EventSubscriptions(parts.scheduler, clock=clock, secret=context.secret)
        await stack.enter_async_context(subscriptions.running())
        follower.follow(subscriptions.update)
        door.app = create_app(context)
        front = WorkerFront(door.app, forward=follower.forward)
        host, certificate = plan.config.gateway.host, plan.certificate
        await stack.enter_async_context(
            running(front, host=host, port=plan.port, certificate=certificate, sharing=Sharing.JOINS)
        )
        follower.is_serving = True
        yield


class _Door:
    """Where worker 0 asks this one."""

    def __init__(self, key: ClusterSecret) -> None:
        self.app: Starlette | None = None
        self.server: RpcServer[WorkerMessage] = RpcServer(_HOST, self._answer, WorkerMessage, secret=key)

    async def _answer(self, message: WorkerMessage, _sender: Sender) -> WorkerMessage:
        if not isinstance(message, AppRequest) or self.app is None:
            raise ProtocolError(f"{type(message).__name__} is no request to a worker that serves")
        return await answer_of(self.app, message)


class _Parts(GatewayParts):
    """Of this worker."""

    def __init__(self, plan: WorkerPlan, clock: Clock) -> None:
        super().__init__(plan.config, clock)
        self.scheduler = make_scheduler(plan.config, plan.facts, clock)
        self.follow(self.scheduler)

    def books(self, view: ClusterView) -> Books:
        """What is under way here now."""
        stats = self.scheduler.stats()
        return Books(
            num_in_flight=stats.num_in_flight,
            draining=draining(view, self.scheduler.num_in_flight),
            queued_tokens=stats.queued_tokens,
            levels=None if self.levels is None else self.levels.now(),
        )

    def choose(self, choices: Choices) -> None:
        """Go by them from the next request on."""
        self.switches.transfer = choices.transfer
        if choices.policy != self.scheduler.policy:
            self.scheduler.use(find_policy(choices.policy))


async def _context(plan: WorkerPlan, parts: _Parts, follower: Follower, stack: AsyncExitStack) -> GatewayContext:
    """With tokenizer and model files read; `stack` closes what has to be closed."""
    config = plan.config
    secret = read_secret(config.cluster.secret) if config.cluster.secret else None
    tokenizer = await asyncio.to_thread(load_tokenization, config.model)
    stack.callback(tokenizer.close)
    releases, pools = await stack.enter_async_context(instance_clients(secret))
    args = [arg for role in Role for arg in role_args(config, role)]
    return GatewayContext(
        settings=config.gateway.part(plan.worker),
        base_models=frozenset({plan.model_name, ""}),
        model=await asyncio.to_thread(served_model, config.model, args, tokenizer),
        scheduler=parts.scheduler,
        cluster=follower,
        elasticity=follower,
        tokenizer=tokenizer,
        releases=releases,
        pools=pools,
        history=parts.history,
        metrics=parts.metrics,
        reports=parts.reports,
        tenants=Tenants(config.tenants),
        switches=parts.switches,
        id_ending=ending_of(plan.worker),
        secret=secret,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
