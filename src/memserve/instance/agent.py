"""The pool's own thread: one asyncio loop that serves peers, calls them, and lets time pass.

Owns the thread, the loop, the RPC server and every task in it. Other threads hand it coroutines and get
futures; they never touch the loop.

    start -> serving -> close      (close cancels what is under way and waits for the thread)
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from memserve.config import Network
from memserve.core.errors import InstanceUnavailable, InvariantError
from memserve.rpc.channel import RpcServer
from memserve.wire.messages import PeerMessage

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Ticker:
    """Something to do every `interval_s` seconds in the agent's loop."""

    def __init__(self, interval_s: float, action: Callable[[], Awaitable[object]]) -> None:
        self.interval_s = interval_s
        self.action = action

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.interval_s)
            try:
                await self.action()
            except Exception:
                _log.exception("a periodic task of the pool failed; it goes on")


class Agent:
    """Serves one pool to other instances."""

    def __init__(
        self,
        *,
        name: str,
        network: Network,
        handler: Callable[[object, bytes], Awaitable[object]],
        tickers: tuple[Ticker, ...],
        at_close: Callable[[], Awaitable[None]],
    ) -> None:
        self._network = network
        self._handler = handler
        self._tickers = tickers
        self._at_close = at_close
        self._started: concurrent.futures.Future[str] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._submitted: set[concurrent.futures.Future[Any]] = set()
        self._gate = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name=name, daemon=True)

    def start(self) -> str:
        """The endpoint it listens on. Raises ConfigError when the address cannot be bound."""
        self._thread.start()
        return self._started.result()

    def submit(self, work: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Run in the loop. Raises InstanceUnavailable after close."""
        with self._gate:
            if self._loop is None or self._closing:
                work.close()
                raise InstanceUnavailable("this pool is closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._submitted.add(future)
        future.add_done_callback(self._submitted.discard)
        return future

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run in the loop and wait. Raises what the work raises; InvariantError from the loop's own thread."""
        try:
            self.check_may_wait()
        except InvariantError:
            work.close()
            raise
        return self.submit(work).result()

    def check_may_wait(self) -> None:
        """Raise InvariantError in the loop's own thread, which must not wait for anything."""
        if threading.current_thread() is self._thread:
            raise InvariantError("a blocking call of the pool from the pool's own thread would wait for itself")

    def call_soon(self, action: Callable[[], object]) -> None:
        """Run a short callable in the loop; nothing happens after close."""
        with self._gate:
            if self._loop is not None and not self._closing:
                self._loop.call_soon_threadsafe(action)

    def run_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Keep the work running until it ends or the agent closes."""

        async def keep() -> None:
            task = asyncio.create_task(work)
            self._background.add(task)
            task.add_done_callback(self._background.discard)

        self.wait(keep())

    def close(self) -> None:
        """Idempotent."""
        with self._gate:
            first, self._closing = not self._closing, True
        if self._loop is not None and self._stop is not None and first:
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.is_alive():
            self._thread.join()

    async def _serve(self) -> None:
        server: RpcServer[object] = RpcServer(
            self._network.bind,
            self._handler,
            PeerMessage,
            advertise=self._network.advertise and self._network.host,
            secret=self._network.secret,
        )
        try:
            await server.start()
        except Exception as error:
            self._started.set_exception(error)
            return
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        for ticker in self._tickers:
            self._background.add(asyncio.create_task(ticker.run()))
        self._started.set_result(server.endpoint)
        await self._stop.wait()
        tasks = tuple(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._at_close()
        under_way = [asyncio.wrap_future(future) for future in tuple(self._submitted)]
        await asyncio.gather(*under_way, return_exceptions=True)
        await server.close()

    def __repr__(self) -> str:
        return f"Agent({self._thread.name}, {'serving' if self._thread.is_alive() else 'closed'})"
