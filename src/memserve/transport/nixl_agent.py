"""One NIXL agent (UCX) for a pool: shows the pool's memory to peers and reads theirs into memory of its own.

Made at its first use, and without NIXL's progress thread, which polls without pause and takes a core of an idle
process: whoever is in the middle of a transfer calls `progress`. UCX writes into the staging buffer and nowhere
else, so bytes that come late, when nobody waits for them any more, reach no block. An agent that failed is
dropped with its staging buffer; the next use makes another one. Thread-safe; copies take turns.

    NixlAgent(...) -> show | progress | copy -> close
"""

import importlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from types import ModuleType
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from memserve.core.clock import Clock
from memserve.core.errors import ConfigError, DeadlineExceeded, InstanceUnavailable, ProtocolError
from memserve.transport.framed_socket import TcpLimits
from memserve.transport.verified_copy import checksum, copy_hashed
from memserve.wire.data_messages import ExposeReply

T = TypeVar("T")

STAGING_BYTES = 32 << 20
"""Or one block, when that is longer."""
_PAUSE_S = 50e-6
"""Between two looks at UCX. Who looks without a pause keeps the interpreter, and this agent, from all other threads."""
_MEMORY = "DRAM"
_MAX_PEERS = 64


def load_nixl() -> ModuleType:
    """NIXL's interface; takes seconds the first time. Raises ConfigError when it cannot be imported."""
    try:
        return importlib.import_module("nixl._api")
    except (ImportError, OSError) as error:
        raise ConfigError(
            f'the path "nixl" is asked for, but NIXL cannot be used here ({error}): pip install "memserve[nixl]", '
            'or name only "shm" and "tcp" in paths'
        ) from error


class NixlAgent:
    """Of one pool. Raises InstanceUnavailable where NIXL fails."""

    def __init__(self, name: str, *, clock: Clock) -> None:
        """`name` is unique among all pools and their lives."""
        self._name = name
        self._clock = clock
        self._numbers = count(1)
        self._lock = threading.RLock()
        self._staging_lock = threading.Lock()
        self._agent: Any = None
        self._region: NDArray[np.uint8] | None = None
        self._staging: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._peers: OrderedDict[str, bytes] = OrderedDict()

    def show(self, views: Sequence[memoryview]) -> ExposeReply:
        """What a peer needs to read these pieces of one mapping."""
        with self._lock:
            agent = self._running()
            self._register_region(views[0].obj)
            metadata: bytes = self._call(agent.get_agent_metadata)
            addresses = tuple(_address(view) for view in views)
            digest = expose_digest(agent.name, metadata, addresses)
            return ExposeReply(agent=agent.name, metadata=metadata, addresses=addresses, digest=digest)

    def progress(self) -> None:
        """Do what peers' reads of what is shown need from this side, which is nothing on RDMA and shared memory.

        Takes a short pause: call it in a loop.
        """
        with self._lock:
            if self._agent is not None:
                self._call(self._agent.get_new_notifs)
        time.sleep(_PAUSE_S)

    def copy(self, shown: ExposeReply, targets: Sequence[memoryview], *, limits: TcpLimits) -> Iterator[int]:
        """Fill each target from its address in a peer's memory; gives the xxh3-64 of what has come into it.

        Raises DeadlineExceeded, ProtocolError. Nothing is written into targets after that.
        """
        if len(shown.addresses) != len(targets):
            raise ProtocolError(f"{shown.agent} shows {len(shown.addresses)} pieces where {len(targets)} are wanted")
        for batch in _batches(targets):
            num_bytes = sum(targets[index].nbytes for index in batch)
            deadline_s = limits.stall_s + num_bytes / limits.min_bytes_per_s
            pieces = [(shown.addresses[index], targets[index].nbytes) for index in batch]
            with self._staging_lock:
                staged = self._read(shown, pieces, deadline_s=deadline_s)
                found = [copy_hashed(targets[index], one) for index, one in zip(batch, staged, strict=True)]
            yield from found

    def close(self) -> None:
        """Idempotent; what is under way fails."""
        self._drop()

    def _read(self, shown: ExposeReply, pieces: Sequence[tuple[int, int]], *, deadline_s: float) -> list[memoryview]:
        """Pieces (address, bytes) of a peer's memory, in the staging buffer until the next `_read`."""
        end = self._clock.now() + deadline_s
        if shown.digest != expose_digest(shown.agent, shown.metadata, shown.addresses):
            raise ProtocolError(f"what {shown.agent} shows to NIXL changed on the way: UCX must not see that")
        with self._lock:
            agent = self._running()
            self._introduce(shown)
            targets = self._staged(sum(length for _, length in pieces))
            starts = np.cumsum([0, *(length for _, length in pieces)]).tolist()
            near = [
                (targets.ctypes.data + start, length, 0) for start, (_, length) in zip(starts, pieces, strict=False)
            ]
            far = [(address, length, 0) for address, length in pieces]
            transfer = self._call(
                lambda: agent.initialize_xfer(
                    "READ", agent.get_xfer_descs(near, _MEMORY), agent.get_xfer_descs(far, _MEMORY), shown.agent
                )
            )
            state = self._call(lambda: agent.transfer(transfer))
        while state == "PROC":
            if self._clock.now() > end:
                self._drop()
                raise DeadlineExceeded(f"{shown.agent} gave no bytes to NIXL within {deadline_s:g} s: given up")
            time.sleep(_PAUSE_S)
            with self._lock:
                state = self._call(lambda: agent.check_xfer_state(transfer))
        with self._lock:
            self._call(lambda: agent.release_xfer_handle(transfer))
        if state != "DONE":
            self._drop()
            raise InstanceUnavailable(f"reading {sum(n for _, n in pieces)} bytes of {shown.agent} ended with {state}")
        memory = targets.data
        return [memory[start : start + length] for start, (_, length) in zip(starts, pieces, strict=False)]

    def _running(self) -> Any:
        if self._agent is None:
            api = load_nixl()
            # TCP and RDMA notice a peer that is gone; where UCX cannot (shared memory alone), it makes no endpoint.
            made = api.nixl_agent(
                f"{self._name}/{next(self._numbers)}", api.nixl_agent_config(enable_prog_thread=False, backends=[])
            )
            self._call(lambda: made.create_backend("UCX", {"ucx_error_handling_mode": "peer"}))
            self._agent = made
        return self._agent

    def _register_region(self, mapping: Any) -> None:
        """The mapping that views point into; one that was replaced by a longer one is no longer shown."""
        region = np.frombuffer(mapping, np.uint8)
        if self._region is not None and _as_region(self._region) == _as_region(region):
            return
        if self._region is not None:
            old, self._region = self._region, None
            self._call(lambda: self._agent.deregister_memory(self._agent.get_reg_descs(_as_region(old), _MEMORY)))
        self._call(lambda: self._agent.register_memory(_as_region(region), _MEMORY))
        self._region = region

    def _staged(self, num_bytes: int) -> NDArray[np.uint8]:
        if self._staging.nbytes < num_bytes:
            self._staging = np.empty(max(num_bytes, STAGING_BYTES), np.uint8)
            self._call(lambda: self._agent.register_memory(_as_region(self._staging), _MEMORY))
        return self._staging[:num_bytes]

    def _introduce(self, shown: ExposeReply) -> None:
        if self._peers.get(shown.agent) == shown.metadata:
            self._peers.move_to_end(shown.agent)
            return
        if shown.agent in self._peers:
            del self._peers[shown.agent]
            self._call(lambda: self._agent.remove_remote_agent(shown.agent))
        self._call(lambda: self._agent.add_remote_agent(shown.metadata))
        self._peers[shown.agent] = shown.metadata
        if len(self._peers) > _MAX_PEERS:
            oldest, _ = self._peers.popitem(last=False)
            self._call(lambda: self._agent.remove_remote_agent(oldest))

    def _call(self, action: Callable[[], T]) -> T:
        """NIXL's errors have no common base: whatever it raises ends this agent."""
        try:
            return action()
        except Exception as error:
            self._drop()
            raise InstanceUnavailable(f"NIXL failed with {type(error).__name__}: {error}") from error

    def _drop(self) -> None:
        with self._lock:
            self._agent = None
            self._region = None
            self._staging = np.empty(0, np.uint8)
            self._peers.clear()

    def __repr__(self) -> str:
        return f"NixlAgent({self._name}, {'running' if self._agent is not None else 'not in use'})"


def expose_digest(agent: str, metadata: bytes, addresses: tuple[int, ...]) -> int:
    """xxh3-64 of an ExposeReply: UCX does not look before it follows an address."""
    return checksum(memoryview(msgspec.msgpack.encode((agent, metadata, addresses))))


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def _as_region(memory: NDArray[np.uint8]) -> list[tuple[int, int, int, str]]:
    return [(memory.ctypes.data, memory.nbytes, 0, "")]


def _batches(targets: Sequence[memoryview]) -> Iterator[range]:
    """As many at once as the staging buffer holds, at least one."""
    first = num_bytes = 0
    for last, target in enumerate(targets):
        if last > first and num_bytes + target.nbytes > STAGING_BYTES:
            yield range(first, last)
            first, num_bytes = last, 0
        num_bytes += target.nbytes
    yield range(first, len(targets))
