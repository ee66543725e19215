"""etcd over TLS, with certificates on both sides, and with a login: against a real server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from memserve.core.errors import ConfigError, RegistryUnavailable
from memserve.core.etcd_address import EtcdAddress, parse_etcd
from memserve.rpc.etcd import EtcdClient, Put
from memserve.rpc.etcd_mirror import EtcdMirror
from memserve.security.https import towards_etcd
from tests.etcd_server import EtcdServer, etcd_server, needs_etcd
from tests.transport.certificates import made_tls


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    async with etcd_server(tmp_path, made_tls(tmp_path)) as server:
        yield server


@contextlib.asynccontextmanager
async def client(url: str) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(parse_etcd(url))
    try:
        yield client
    finally:
        await client.close()


async def follows(client: EtcdClient) -> None:
    """What is written is read, and a copy hears of it."""
    mirror = EtcdMirror(client, "/a/", on_change=lambda _: None)
    task = asyncio.create_task(mirror.run())
    async with asyncio.timeout(20):
        await mirror.wait_listed()
        await client.put(Put(key="/a/x", value=b"1"))
        while mirror.find("x") is None:
            await mirror.wait_change()
    task.cancel()
    await asyncio.wait([task])


@needs_etcd
async def test_etcd_is_talked_to_by_tls_and_a_stranger_is_refused_in_either_direction(
    server: EtcdServer, tmp_path: Path
) -> None:
    async with client(server.url) as member:
        await follows(member)
    ours = parse_etcd(server.url).ca
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    other = made_tls(theirs)
    for url, why in (
        (f"etcd://{server.endpoint}", "does not answer"),
        (f"etcds://{server.endpoint}?ca={other.ca}", "certificate verify failed"),
        (f"etcds://{server.endpoint}?ca={ours}", "does not answer"),
        (f"etcds://{server.endpoint}?ca={ours}&cert={other.certificate}&key={other.key}", "does not answer"),
    ):
        async with client(url) as stranger:
            with pytest.raises(RegistryUnavailable, match=why):
                await stranger.list("/a/")
    async with client(server.url) as member:
        assert len((await member.list("/a/")).entries) == 1


@needs_etcd
async def test_a_login_is_made_and_made_again_when_it_has_ended(server: EtcdServer, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    await with_root(server, "secret")
    async with client(server.url) as nobody:
        with pytest.raises(RegistryUnavailable, match="user name is empty"):
            await nobody.list("/a/")
    async with client(f"{server.url}&user=root&password={password}") as root:
        await follows(root)
        await server.kill()
        await server.start(wait=False)
        async with asyncio.timeout(20):
            while not await is_listed(root):  # noqa: ASYNC110 - another process makes it true
                await asyncio.sleep(0.05)
    password.write_text("wrong")
    async with client(f"{server.url}&user=root&password={password}") as wrong:
        with pytest.raises(RegistryUnavailable, match="invalid user ID or password"):
            await wrong.list("/a/")


async def is_listed(client: EtcdClient) -> bool:
    try:
        return bool((await client.list("/a/")).entries)
    except RegistryUnavailable:
        return False


async def with_root(server: EtcdServer, password: str) -> None:
    """From now on who does not log in is refused."""
    address = parse_etcd(server.url)
    tls = towards_etcd(ca=address.ca, cert=address.cert, key=address.key)
    async with aiohttp.ClientSession() as http:
        for what, body in (
            ("user/add", {"name": "root", "password": password}),
            ("role/add", {"name": "root"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("enable", {}),
        ):
            url = f"https://{server.endpoint}/v3/auth/{what}"
            async with http.post(url, json=body, ssl=tls) as answer:
                assert answer.status == 200, await answer.text()


def test_an_address_says_all_of_it_in_one_line() -> None:
    assert parse_etcd("etcd://a:1,[::1]:2/name") == EtcdAddress(endpoints=("a:1", "[::1]:2"), cluster="name")
    found = parse_etcd("etcds://a:1/name?ca=/ca.pem&cert=/c.pem&key=/k.pem&user=me&password=/p")
    assert found == EtcdAddress(
        endpoints=("a:1",),
        cluster="name",
        has_tls=True,
        ca="/ca.pem",
        cert="/c.pem",
        key="/k.pem",
        user="me",
        password="/p",
    )


@pytest.mark.parametrize(
    ("behind", "says"),
    [
        ("?ca=/a&ca=/b", "each once"),
        ("?cacert=/a", "stand ca, cert, key, user and password"),
        ("?ca", "write for example"),
        ("?ca=rel.pem", "no absolute path"),
        ("?key=/k.pem", "a key with its cert"),
        ("?user=me", "user and password together"),
    ],
)
def test_an_address_that_says_something_else_is_refused(behind: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_etcd(f"etcds://a:1{behind}")


def test_files_are_of_no_use_without_tls() -> None:
    with pytest.raises(ConfigError, match="user, password would be of no use, or in the clear: write etcds://"):
        parse_etcd("etcd://a:1?user=me&password=/p")
