"""etcd through its own JSON gateway over HTTP: what memserve needs of the key-value, lease and watch services.

Owns the HTTP connections, with TLS and a login where the address says so, and which of the endpoints is asked. Knows
nothing of what the keys mean. Every call has a deadline; one that an endpoint does not answer goes to the next, and
RegistryUnavailable says that none did.
After https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/: bytes travel as base64, 64-bit numbers as text.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from memserve.core.errors import LeaseLost, RegistryUnavailable
from memserve.core.etcd_address import EtcdAddress
from memserve.security.https import reason_of, towards_etcd

T = TypeVar("T")

_CODE_NOT_FOUND = 5
_CODE_UNAUTHENTICATED = 16
_MAX_LINE = 64 << 20


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is, or a deletion: `value` None."""

    key: str
    value: bytes | None
    mod_revision: int
    create_revision: int = 0
    lease: int = 0


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    revision: int
    """Of the whole store: a watch from the next one misses nothing."""
    entries: tuple[Entry, ...]
    """In the order in which the keys were created."""


class Put(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    value: bytes
    lease: int = 0
    """0: it stays until it is deleted."""


class Delete(msgspec.Struct, frozen=True, kw_only=True):
    key: str


class _Header(msgspec.Struct):
    revision: int = 0


class _KeyValue(msgspec.Struct):
    key: str
    value: str = ""
    mod_revision: int = 0
    create_revision: int = 0
    lease: int = 0


class _Range(msgspec.Struct):
    header: _Header
    kvs: list[_KeyValue] = []


class _Lease(msgspec.Struct):
    id: int = msgspec.field(name="ID", default=0)
    ttl: int = msgspec.field(name="TTL", default=0)


class _Streamed(msgspec.Struct):
    result: _Lease = msgspec.field(default_factory=_Lease)


class _Transacted(msgspec.Struct):
    succeeded: bool = False


class _Event(msgspec.Struct):
    kv: _KeyValue
    type: str = "PUT"


class _Watched(msgspec.Struct):
    events: list[_Event] = []
    canceled: bool = False
    compact_revision: int = 0


class _WatchLine(msgspec.Struct):
    result: _Watched = msgspec.field(default_factory=_Watched)


class _Token(msgspec.Struct):
    token: str


class _Fault(msgspec.Struct):
    error: str = ""
    code: int = 0


class _LoginEnded(RegistryUnavailable):
    """Log in again."""


class EtcdClient:
    """On one event loop; the first call connects."""

    def __init__(self, address: EtcdAddress, *, deadline_s: float = 2.0) -> None:
        """`deadline_s` is for one call to one endpoint. Raises ConfigError for files that cannot be used."""
        self.endpoints = address.endpoints
        self._address = address
        self._tls = towards_etcd(ca=address.ca, cert=address.cert, key=address.key) if address.has_tls else True
        self._token = ""
        self._deadline_s = deadline_s
        self._current = 0
        self._session: aiohttp.ClientSession | None = None

    async def list(self, prefix: str) -> Listing:
        """All keys that begin so."""
        asked = {**_prefix(prefix), "sort_target": "CREATE", "sort_order": "ASCEND"}
        found = await self._call("kv/range", asked, _Range)
        return Listing(revision=found.header.revision, entries=tuple(_entry(kv) for kv in found.kvs))

    async def get(self, key: str) -> Entry | None:
        found = await self._call("kv/range", {"key": _coded(key)}, _Range)
        return _entry(found.kvs[0]) if found.kvs else None

    async def put(self, put: Put) -> None:
        """Raises LeaseLost when its lease has ended."""
        await self._call("kv/put", _put(put), _Header)

    async def transact(self, *, unchanged: dict[str, int], writes: Sequence[Put | Delete]) -> bool:
        """Write all if each key of `unchanged` is still of this mod_revision (0: there is none); else nothing.

        Raises LeaseLost when a lease has ended. A call that failed may have been carried out.
        """
        compare = [
            {"key": _coded(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
            for key, revision in unchanged.items()
        ]
        success = [
            {"request_put": _put(write)}
            if isinstance(write, Put)
            else {"request_delete_range": {"key": _coded(write.key)}}
            for write in writes
        ]
        return (await self._call("kv/txn", {"compare": compare, "success": success}, _Transacted)).succeeded

    async def grant(self, ttl_s: int) -> int:
        """A new lease; what is put under it is deleted when nobody keeps it alive for so long."""
        return (await self._call("lease/grant", {"TTL": str(ttl_s), "ID": "0"}, _Lease)).id

    async def keep_alive(self, lease: int) -> None:
        """Raises LeaseLost when it has ended."""
        found = await self._call("lease/keepalive", {"ID": str(lease)}, _Streamed)
        if found.result.ttl <= 0:
            raise LeaseLost(f"lease {lease:x} has ended: what was written under it is gone")

    async def revoke(self, lease: int) -> None:
        """End it, and delete what was put under it. Raises LeaseLost when it has ended."""
        await self._call("lease/revoke", {"ID": str(lease)}, _Header)

    async def watch(self, prefix: str, *, after: int, quiet_s: float) -> AsyncIterator[tuple[Entry, ...]]:
        """What happens to the keys that begin so after this revision, in order.

        Ends when the revision is compacted away, raises RegistryUnavailable when the connection breaks or brings
        nothing for `quiet_s`: list and watch anew then.
        """
        asked = {"create_request": {**_prefix(prefix), "start_revision": str(after + 1)}}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._deadline_s, sock_read=quiet_s)
        endpoint = self.endpoints[self._current]
        try:
            async with self._post(endpoint, "watch", asked, timeout) as answer:
                async for line in _lines(answer.content):
                    told = _decode(line, _WatchLine).result
                    if told.canceled or told.compact_revision:
                        return
                    if told.events:
                        yield tuple(_entry(event.kv, is_gone=event.type == "DELETE") for event in told.events)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._try_next()
            raise self._unavailable(error) from error
        raise RegistryUnavailable(f"etcd at {endpoint} ended a watch")

    async def close(self) -> None:
        """Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(self, what: str, asked: dict[str, Any], shape: type[T]) -> T:
        """After a login, where one is needed; once more where that has run out."""
        if not self._address.user:
            return await self._ask(what, asked, shape)
        if self._token:
            try:
                return await self._ask(what, asked, shape)
            except _LoginEnded:
                self._token = ""
        await self._log_in()
        return await self._ask(what, asked, shape)

    async def _log_in(self) -> None:
        try:
            password = (await asyncio.to_thread(Path(self._address.password).read_text)).strip()
        except OSError as error:
            raise RegistryUnavailable(f"etcd's password {self._address.password}: {error.strerror}") from error
        login = {"name": self._address.user, "password": password}
        self._token = (await self._ask("auth/authenticate", login, _Token)).token

    async def _ask(self, what: str, asked: dict[str, Any], shape: type[T]) -> T:
        timeout = aiohttp.ClientTimeout(total=self._deadline_s)
        last: Exception | None = None
        for _ in self.endpoints:
            try:
                async with self._post(self.endpoints[self._current], what, asked, timeout) as answer:
                    body = await answer.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                last = error
                self._try_next()
                continue
            if answer.status == 200:
                return _decode(body, shape)
            fault = _decode(body, _Fault)
            if fault.code == _CODE_NOT_FOUND:
                raise LeaseLost(f"{fault.error}: what was written under it is gone")
            if fault.code == _CODE_UNAUTHENTICATED:
                raise _LoginEnded(f"etcd at {', '.join(self.endpoints)} refuses the login: {fault.error}")
            last = RegistryUnavailable(f"HTTP {answer.status} {fault.error}")
            self._try_next()
        raise self._unavailable(last)

    def _post(
        self, endpoint: str, what: str, asked: dict[str, Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.client._RequestContextManager:
        url = f"{'https' if self._address.has_tls else 'http'}://{endpoint}/v3/{what}"
        shown = {"Authorization": self._token} if self._token else {}
        return self._http().post(url, json=asked, timeout=timeout, headers=shown)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16, ssl=self._tls))
        return self._session

    def _try_next(self) -> None:
        self._current = (self._current + 1) % len(self.endpoints)

    def _unavailable(self, error: Exception | None) -> RegistryUnavailable:
        why = "no answer in time" if isinstance(error, TimeoutError) or error is None else reason_of(error)
        return RegistryUnavailable(f"etcd at {', '.join(self.endpoints)} does not answer ({why})")

    def __repr__(self) -> str:
        return f"EtcdClient({', '.join(self.endpoints)})"


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Of any length; a stream that sends one beyond 64 MiB is not etcd's."""
    pending = b""
    async for chunk in content.iter_any():
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(pending) > _MAX_LINE:
            raise RegistryUnavailable(f"etcd sent a line of more than {_MAX_LINE >> 20} MiB")


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _prefix(prefix: str) -> dict[str, str]:
    """The range from the prefix to the first key behind all that begin so."""
    return {"key": _coded(prefix), "range_end": _coded(prefix[:-1] + chr(ord(prefix[-1]) + 1))}


def _put(put: Put) -> dict[str, str]:
    return {"key": _coded(put.key), "value": base64.b64encode(put.value).decode(), "lease": str(put.lease)}


def _entry(kv: _KeyValue, *, is_gone: bool = False) -> Entry:
    return Entry(
        key=base64.b64decode(kv.key).decode(),
        value=None if is_gone else base64.b64decode(kv.value),
        mod_revision=kv.mod_revision,
        create_revision=kv.create_revision,
        lease=kv.lease,
    )


def _decode(body: bytes, shape: type[T]) -> T:
    """Numbers come as text. Raises RegistryUnavailable for what etcd would not say."""
    try:
        return msgspec.json.decode(body, type=shape, strict=False)
    except msgspec.MsgspecError as error:
        raise RegistryUnavailable(f"this is no answer of etcd ({error}): {body[:100]!r}") from error
