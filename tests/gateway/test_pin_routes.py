"""Prompts are pinned, listed and let go through the gateway, on the instances that hold them."""

from typing import Any

import pytest

from memserve.core.errors import InstanceUnavailable, QuotaExceeded
from tests.gateway.rig import Rig, Rigs, chat


async def delete(cluster: Rig, pin: str) -> tuple[int, Any]:
    async with cluster.http.delete(f"{cluster.url}/admin/pins/{pin}") as answer:
        return answer.status, await answer.json()


async def test_a_prompt_is_pinned_where_it_is_held_listed_and_let_go(rig: Rigs) -> None:
    async with rig(prefill=2, decode=1) as cluster:
        cluster.pools.holders = {"p1", "d0"}
        status, pinned = await cluster.post(chat(), path="/admin/pins")
        assert status == 200
        assert [place["instance"] for place in pinned["instances"]] == ["p1", "d0"]
        assert pinned["instances"][0]["num_tokens"] == pinned["num_tokens"] > 0
        _, listed = await cluster.get("/admin/pins")
        assert [(pin["pin"], len(pin["instances"])) for pin in listed["pins"]] == [(pinned["pin"], 2)]
        assert await delete(cluster, pinned["pin"]) == (
            200,
            {"pin": pinned["pin"], "instances": ["p1", "d0"], "silent": []},
        )
        assert (await cluster.get("/admin/pins"))[1]["pins"] == []
        assert (await delete(cluster, pinned["pin"]))[0] == 404


async def test_a_plain_prompt_is_pinned_too_and_each_salt_has_pins_of_its_own(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.pools.holders = {"p0"}
        names = set()
        for salt in ({}, {"cache_salt": "tenant"}, {"cache_salt": "other"}):
            _, answer = await cluster.post({"model": "tiny", "prompt": "long enough", **salt}, path="/admin/pins")
            names.add(answer["pin"])
        assert len(names) == 3


async def test_a_prompt_that_nobody_holds_is_404_and_says_what_to_do(rig: Rigs) -> None:
    async with rig() as cluster:
        status, answer = await cluster.post(chat(), path="/admin/pins")
        assert (status, "send the prompt first, then pin" in answer["error"]["message"]) == (404, True)


async def test_a_quota_is_told_with_its_numbers(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.pools.holders = {"d0"}
        cluster.pools.refusal = QuotaExceeded("12 pinned ones of DRAM, where 8 of 16 may be")
        status, answer = await cluster.post(chat(), path="/admin/pins")
        assert (status, answer["error"]["message"]) == (409, "d0: 12 pinned ones of DRAM, where 8 of 16 may be")


async def test_instances_that_do_not_answer_are_named(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.pools.refusal = InstanceUnavailable("away")
        status, answer = await delete(cluster, "some")
        assert (status, "p0: InstanceUnavailable: away" in answer["error"]["message"]) == (503, True)


@pytest.mark.parametrize("body", [{}, {"model": "tiny"}, {"messages": []}, {"prompt": ""}, [], "text"])
async def test_a_body_without_a_prompt_is_400(rig: Rigs, body: Any) -> None:
    async with rig() as cluster:
        assert (await cluster.post(body, path="/admin/pins"))[0] == 400
