"""An operator changes the pools through the gateway: what goes to which instance, and how a refusal looks."""

from typing import Any

import pytest

from memserve.core.errors import ConfigError, InstanceUnavailable, PoolExhausted
from tests.gateway.rig import Rig, Rigs


async def put(cluster: Rig, instance: str, body: Any) -> tuple[int, Any]:
    async with cluster.http.put(f"{cluster.url}/admin/instances/{instance}/pool", json=body) as answer:
        return answer.status, await answer.json()


async def test_a_pool_is_resized_through_the_gateway(rig: Rigs) -> None:
    async with rig() as cluster:
        status, answer = await put(cluster, "d0", {"dram": "1KiB"})
        assert (status, cluster.pools.asked) == (200, [("d0", 1024)])
        assert (answer["before"]["num_blocks"], answer["after"]["num_blocks"]) == (8, 16)


async def test_an_unknown_instance_is_404_with_the_names_there_are(rig: Rigs) -> None:
    async with rig() as cluster:
        status, answer = await put(cluster, "d9", {"dram": "1KiB"})
        assert (status, answer["error"]["message"]) == (404, "no instance d9 in this cluster; there are: p0, d0")


@pytest.mark.parametrize("body", [{}, {"dram": 5}, {"dram": "much"}, {"dram": "-1GiB"}, {"disk": "1GiB"}, []])
async def test_a_size_that_is_none_is_400(rig: Rigs, body: Any) -> None:
    async with rig() as cluster:
        status, answer = await put(cluster, "d0", body)
        assert (status, cluster.pools.asked) == (400, [])
        assert 'send {"dram": "2GiB"}' in answer["error"]["message"]


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (PoolExhausted("7 in the way"), 409),
        (ConfigError("/dev/shm has 5 bytes free"), 409),  # noqa: S108
        (InstanceUnavailable("away"), 503),
    ],
)
async def test_what_the_pool_refuses_is_told_with_its_numbers(rig: Rigs, refusal: Exception, status: int) -> None:
    async with rig() as cluster:
        cluster.pools.refusal = refusal
        found, answer = await put(cluster, "d0", {"dram": "1KiB"})
        assert found == status
        assert str(refusal) in answer["error"]["message"]


async def test_the_ways_between_each_two_instances_are_those_that_they_name(rig: Rigs) -> None:
    async with rig() as cluster, cluster.http.get(f"{cluster.url}/admin/paths") as answer:
        assert (await answer.json())["paths"] == [
            {"instance": "p0", "peer": "d0", "path": "nixl"},
            {"instance": "d0", "peer": "p0", "path": "nixl"},
        ]


async def test_an_instance_that_does_not_say_its_ways_is_left_out(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.pools.refusal = InstanceUnavailable("away")
        async with cluster.http.get(f"{cluster.url}/admin/paths") as answer:
            assert (answer.status, await answer.json()) == (200, {"paths": []})
