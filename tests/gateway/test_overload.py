"""More requests than may run: they wait their fair turn, further ones are told when to come back."""

import asyncio
from typing import Any

import pytest

from memserve.config import TenantSettings
from tests.gateway.rig import Rig, Rigs, chat

ONE_AT_A_TIME = {"max_requests_per_instance": 1, "max_waiting": 3, "max_waiting_per_tenant": 2}
TENANTS = (
    TenantSettings(name="acme", api_key="key-a"),
    TenantSettings(name="bolt", api_key="key-b", isolated=True),
)


def asked(cluster: Rig, name: str, key: str = "") -> "asyncio.Task[tuple[int, Any]]":
    headers = {"x-request-id": name, **({"authorization": f"Bearer {key}"} if key else {})}
    return asyncio.create_task(cluster.post(chat(), **headers))


async def waiting(cluster: Rig, count: int) -> None:
    async with asyncio.timeout(10):
        while await cluster.metric("memserve_gateway_waiting_requests") != count:
            pass


async def started(cluster: Rig) -> None:
    engine = cluster.engine("c0")
    await engine.changes.until(lambda: bool(engine.seen))


async def test_beyond_the_bound_a_request_gets_429_and_a_time_to_come_back(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=1, bounds=ONE_AT_A_TIME) as cluster:
        hold = cluster.engine("c0").hold = asyncio.Event()
        first = asked(cluster, "first")
        await started(cluster)
        others = [asked(cluster, f"other{i}") for i in range(2)]
        await waiting(cluster, 2)
        async with cluster.http.post(f"{cluster.url}/v1/chat/completions", json=chat()) as refused:
            assert refused.status == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            error = (await refused.json())["error"]
        assert (error["type"], error["code"]) == ("RateLimitError", 429)
        assert "2 requests of yours are waiting" in error["message"]
        hold.set()
        assert [status for status, _ in await asyncio.gather(first, *others)] == [200, 200, 200]
        assert await cluster.metric("memserve_gateway_waiting_requests") == 0


async def test_the_tenant_that_asked_once_is_served_before_the_second_of_one_that_asked_often(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=1, bounds=ONE_AT_A_TIME, tenants=TENANTS) as cluster:
        hold = cluster.engine("c0").hold = asyncio.Event()
        tasks = [asked(cluster, "a0", "key-a")]
        await started(cluster)
        for number, (name, key) in enumerate([("a1", "key-a"), ("a2", "key-a"), ("b1", "key-b")], start=1):
            tasks.append(asked(cluster, name, key))
            await waiting(cluster, number)
        hold.set()
        await asyncio.gather(*tasks)
        order = [seen.headers["x-request-id"] for seen in cluster.engine("c0").seen]
        assert order.index("b1") < order.index("a2")


async def test_who_gives_up_waiting_leaves_no_trace_and_lets_the_next_one_in(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=1, bounds=ONE_AT_A_TIME) as cluster:
        hold = cluster.engine("c0").hold = asyncio.Event()
        first = asked(cluster, "first")
        await started(cluster)
        second = asked(cluster, "second")
        await waiting(cluster, 1)
        second.cancel()
        await waiting(cluster, 0)
        third = asked(cluster, "third")
        await waiting(cluster, 1)
        hold.set()
        assert [(await task)[0] for task in (first, third)] == [200, 200]
        assert [seen.headers["x-request-id"] for seen in cluster.engine("c0").seen] == ["first", "third"]


async def test_no_instance_is_given_more_than_its_bound_while_another_has_room(rig: Rigs) -> None:
    bounds = {**ONE_AT_A_TIME, "max_requests_per_instance": 2}
    async with rig(prefill=0, decode=0, colocated=2, bounds=bounds) as cluster:
        hold = asyncio.Event()
        for name in ("c0", "c1"):
            cluster.engine(name).hold = hold
        tasks = [asked(cluster, f"r{i}") for i in range(4)]
        for engine in cluster.engines.values():
            await engine.changes.until(lambda engine=engine: len(engine.seen) == 2)
        assert [len(cluster.engine(name).seen) for name in ("c0", "c1")] == [2, 2]
        hold.set()
        assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 4


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/tokenize"])
async def test_with_tenants_a_request_without_a_known_key_is_refused(rig: Rigs, path: str) -> None:
    async with rig(prefill=0, decode=0, colocated=1, tenants=TENANTS) as cluster:
        for headers in ({}, {"authorization": "Bearer key-c"}, {"authorization": "Basic key-a"}):
            method = "GET" if path == "/v1/models" else "POST"
            async with cluster.http.request(method, cluster.url + path, json=chat(), headers=headers) as answer:
                assert answer.status == 401
                assert (await answer.json())["error"]["type"] == "AuthenticationError"
        assert not cluster.engine("c0").seen


async def salt_seen(cluster: Rig, key: str, **fields: Any) -> Any:
    await cluster.post(chat(**fields), authorization=f"Bearer {key}")
    return cluster.engine("c0").seen[-1].body.get("cache_salt")


async def test_an_isolated_tenant_has_a_salt_that_no_client_can_send(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=1, tenants=TENANTS) as cluster:
        own = await salt_seen(cluster, "key-b")
        assert own
        assert await salt_seen(cluster, "key-b") == own
        assert await salt_seen(cluster, "key-b", cache_salt="mine") not in {own, "mine"}
        assert await salt_seen(cluster, "key-a") is None
        assert await salt_seen(cluster, "key-a", cache_salt=own) not in {None, own}


async def test_what_passes_through_is_salted_too(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=1, tenants=TENANTS) as cluster:
        await cluster.post({"input": "hi"}, path="/v1/responses", authorization="Bearer key-b")
        assert cluster.engine("c0").seen[-1].body["cache_salt"]
