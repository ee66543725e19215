"""A real etcd server on loopback for a test: stopped, paused, compacted, started again on its data. Not a test."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from memserve.core.errors import RegistryUnavailable
from memserve.core.etcd_address import parse_etcd
from memserve.rpc.etcd import EtcdClient
from memserve.security.tls_files import NO_TLS, TlsFiles
from memserve.serving.prepare import free_ports

needs_etcd = pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed (apt install etcd-server)")


class EtcdServer:
    def __init__(self, folder: Path, tls: TlsFiles = NO_TLS) -> None:
        self._tls = tls
        self._folder = folder
        self._client_port, self._peer_port = free_ports(2)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._client_port}"

    @property
    def url(self) -> str:
        if not self._tls.is_on:
            return f"etcd://{self.endpoint}"
        files = f"ca={self._tls.ca}&cert={self._tls.certificate}&key={self._tls.key}"
        return f"etcds://{self.endpoint}?{files}"

    async def start(self, *, wait: bool = True) -> None:
        """Returns when it answers; one that wants a login is not waited for."""
        clients = f"{'https' if self._tls.is_on else 'http'}://{self.endpoint}"
        peers = f"http://127.0.0.1:{self._peer_port}"
        options = {
            "--data-dir": str(self._folder / "etcd"),
            "--listen-client-urls": clients,
            "--advertise-client-urls": clients,
            "--listen-peer-urls": peers,
            "--initial-advertise-peer-urls": peers,
            "--initial-cluster": f"default={peers}",
        }
        if self._tls.is_on:
            options |= {"--cert-file": self._tls.certificate, "--key-file": self._tls.key}
            options |= {"--trusted-ca-file": self._tls.ca, "--client-cert-auth": "true"}
        with (self._folder / "etcd.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "etcd", *(f"{name}={value}" for name, value in options.items()), stdout=log, stderr=log
            )
        if not wait:
            return
        client = EtcdClient(parse_etcd(self.url))
        async with asyncio.timeout(30):
            while not await _answers(client):  # noqa: ASYNC110 - another process makes it true
                await asyncio.sleep(0.05)
        await client.close()

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def compact(self) -> None:
        """Forget all history up to now."""
        client = EtcdClient(parse_etcd(self.url))
        revision = (await client.list("/")).revision
        async with aiohttp.ClientSession() as session:
            url = f"http://{self.endpoint}/v3/kv/compaction"
            async with session.post(url, json={"revision": str(revision)}) as answer:
                assert answer.status == 200
        await client.close()


async def _answers(client: EtcdClient) -> bool:
    try:
        await client.list("/")
    except RegistryUnavailable:
        return False
    return True


@asynccontextmanager
async def etcd_server(folder: Path, tls: TlsFiles = NO_TLS) -> AsyncIterator[EtcdServer]:
    """Running at the start of the block, gone at its end."""
    server = EtcdServer(folder, tls)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
