"""The client and the copy of etcd's keys, against a real server that is killed, paused and compacted."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memserve.core.errors import LeaseLost, RegistryUnavailable
from memserve.core.etcd_address import EtcdAddress
from memserve.rpc.etcd import Delete, Entry, EtcdClient, Put
from memserve.rpc.etcd_mirror import EtcdMirror
from tests.etcd_server import EtcdServer, etcd_server, free_ports, needs_etcd
from tests.fakes.waiting import Changes

pytestmark = needs_etcd


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    async with etcd_server(tmp_path) as server:
        yield server


@pytest.fixture
async def client(server: EtcdServer) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(EtcdAddress(endpoints=(server.endpoint,)))
    yield client
    await client.close()


class Copy:
    """What somebody knows who was told every change of a mirror, and nothing else."""

    def __init__(self, client: EtcdClient) -> None:
        self.keys: dict[str, bytes] = {}
        self.changes = Changes()
        self.mirror = EtcdMirror(client, "/a/", on_change=self.hear)

    def hear(self, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            if entry.value is None:
                assert self.keys.pop(entry.key, None) is not None, "a deletion of what was never told"
            else:
                self.keys[entry.key] = entry.value
        self.changes.happened()

    async def until(self, expected: dict[str, bytes]) -> None:
        await self.changes.until(lambda: self.keys == expected, deadline_s=20)


@pytest.fixture
async def copy(client: EtcdClient) -> AsyncIterator[Copy]:
    copy = Copy(client)
    task = asyncio.create_task(copy.mirror.run())
    yield copy
    task.cancel()
    await asyncio.wait([task])


async def test_several_keys_are_written_only_while_what_was_read_is_unchanged(client: EtcdClient) -> None:
    first = Put(key="/a/x", value=b"1")
    assert await client.transact(unchanged={"/a/x": 0}, writes=[first])
    assert not await client.transact(unchanged={"/a/x": 0}, writes=[first, Put(key="/a/y", value=b"2")])
    assert await client.get("/a/y") is None
    found = await client.get("/a/x")
    assert found is not None
    assert await client.transact(unchanged={"/a/x": found.mod_revision}, writes=[Delete(key="/a/x")])
    assert (await client.list("/a/")).entries == ()


async def test_what_was_put_under_a_lease_goes_with_it_and_a_dead_lease_says_so(client: EtcdClient) -> None:
    lease = await client.grant(5)
    await client.put(Put(key="/a/x", value=b"1", lease=lease))
    await client.keep_alive(lease)
    await client.revoke(lease)
    assert await client.get("/a/x") is None
    with pytest.raises(LeaseLost, match="has ended"):
        await client.keep_alive(lease)
    with pytest.raises(LeaseLost):
        await client.put(Put(key="/a/x", value=b"1", lease=lease))


async def test_a_copy_follows_through_a_compaction_a_kill_and_a_restart(
    server: EtcdServer, client: EtcdClient, copy: Copy
) -> None:
    await client.put(Put(key="/a/x", value=b"1"))
    await client.put(Put(key="/b/x", value=b"of somebody else"))
    await copy.until({"x": b"1"})
    await server.kill()
    await server.start()
    await client.put(Put(key="/a/y", value=b"2"))
    await client.transact(unchanged={}, writes=[Delete(key="/a/x"), Put(key="/a/y", value=b"3")])
    await server.compact()
    await copy.until({"y": b"3"})
    await client.put(Put(key="/a/z", value=b"4"))
    await copy.until({"y": b"3", "z": b"4"})


async def test_the_next_endpoint_is_asked_when_one_does_not_answer(server: EtcdServer) -> None:
    client = EtcdClient(
        EtcdAddress(
            endpoints=(
                f"127.0.0.1:{free_ports(1)[0]}",
                server.endpoint,
            )
        )
    )
    await client.put(Put(key="/a/x", value=b"1"))
    await client.close()


async def test_an_etcd_that_is_not_there_is_told_with_its_address() -> None:
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    client = EtcdClient(EtcdAddress(endpoints=(endpoint,)))
    with pytest.raises(RegistryUnavailable, match=f"etcd at {endpoint} does not answer"):
        await client.list("/a/")
    await client.close()
