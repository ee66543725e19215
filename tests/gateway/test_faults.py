"""Instances that fail and clients that leave: the request goes elsewhere, nothing stays held, nothing hangs."""

import asyncio

import aiohttp
import pytest

from memserve.cluster.view import InstanceState
from memserve.core.enums import Role
from tests.fakes.engine import Fault
from tests.gateway.rig import Rig, Rigs, chat, fail_first, serving

BEFORE_THE_FIRST_BYTE = [Fault.ANSWER_500, Fault.ERROR_EVENT, Fault.EMPTY_STREAM]


async def test_a_failing_prefill_instance_is_replaced(rig: Rigs) -> None:
    async with rig(prefill=3) as cluster:
        fail_first(cluster, "p", Fault.ANSWER_500, Fault.CUT)
        status, _ = await cluster.post(chat())
        assert status == 200
        assert [cluster.phases(f"p{i}") for i in range(3)] == [["prefill"]] * 3
        assert cluster.phases("d0") == ["decode"]
        (first, told), (second, _) = cluster.cluster.faults
        assert first != second
        assert "answered 500" in told


async def test_without_any_prefill_instance_left_decode_serves_alone(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("p0").fault = Fault.CUT
        status, answer = await cluster.post(chat())
        assert status == 200
        assert cluster.phases("d0") == ["whole"]
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 8


async def test_after_many_failing_prefill_instances_decode_serves_alone(rig: Rigs) -> None:
    async with rig(prefill=5) as cluster:
        for i in range(5):
            cluster.engine(f"p{i}").fault = Fault.ANSWER_500
        status, _ = await cluster.post(chat())
        assert status == 200
        assert cluster.phases("d0") == ["whole"]
        assert len(cluster.cluster.faults) == 3


@pytest.mark.parametrize("fault", BEFORE_THE_FIRST_BYTE)
async def test_a_decode_instance_that_fails_before_the_first_byte_is_replaced(rig: Rigs, fault: Fault) -> None:
    async with rig(decode=2) as cluster:
        fail_first(cluster, "d", fault)
        assert b"Paged" in await cluster.stream(chat())
        assert len(cluster.cluster.faults) == 1


async def test_a_whole_answer_that_breaks_off_is_made_again_elsewhere(rig: Rigs) -> None:
    async with rig(decode=2) as cluster:
        fail_first(cluster, "d", Fault.CUT)
        status, answer = await cluster.post(chat())
        assert (status, answer["object"]) == (200, "chat.completion")
        assert len(cluster.cluster.faults) == 1


async def test_an_unreachable_prefill_instance_leaves_the_work_to_decode(rig: Rigs) -> None:
    async with rig(prefill=0) as cluster:
        cluster.cluster.add("gone", Role.PREFILL, await closed_url())
        status, _ = await cluster.post(chat())
        assert (status, cluster.phases("d0")) == (200, ["whole"])
        assert [name for name, _ in cluster.cluster.faults] == ["gone"]


async def test_an_unreachable_decode_instance_leaves_the_work_to_prefill(rig: Rigs) -> None:
    async with rig(decode=0) as cluster:
        cluster.cluster.add("gone", Role.DECODE, await closed_url())
        status, _ = await cluster.post(chat())
        assert (status, cluster.phases("p0")) == (200, ["prefill", "whole"])
        assert [name for name, _ in cluster.cluster.faults] == ["gone"]


async def closed_url() -> str:
    async with serving() as server:
        return server.url


async def test_with_nothing_left_the_client_gets_503(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=2) as cluster:
        for engine in cluster.engines.values():
            engine.fault = Fault.ANSWER_500
        status, answer = await cluster.post(chat())
        assert (status, answer["error"]["type"]) == (503, "ServiceUnavailableError")
        assert "boom" in answer["error"]["message"]


async def test_an_empty_cluster_answers_503_at_once(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0) as cluster:
        status, answer = await cluster.post(chat())
        assert (status, answer["error"]["code"]) == (503, 503)


async def test_suspect_instances_get_no_requests(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=2) as cluster:
        cluster.cluster.set_state("c0", InstanceState.SUSPECT)
        for i in range(4):
            await cluster.post(chat(f"prompt {i}"))
        assert cluster.engine("c0").seen == []


async def test_a_stalled_prefill_is_given_up_when_its_instance_leaves_the_cluster(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("p0").fault = Fault.STALL
        work = asyncio.create_task(cluster.post(chat()))
        await cluster.engine("p0").changes.until(lambda: bool(cluster.engine("p0").seen))
        cluster.cluster.remove("p0")
        status, _ = await work
        assert (status, cluster.phases("d0")) == (200, ["whole"])
        assert cluster.cluster.faults == [("p0", "instance p0 left the cluster")]


async def test_the_deadline_answers_504_and_closes_the_upstream(rig: Rigs) -> None:
    async with rig(deadline_s=0.3) as cluster:
        cluster.engine("p0").fault = Fault.STALL
        status, answer = await cluster.post(chat())
        assert (status, answer["error"]["type"]) == (504, "GatewayTimeoutError")
        await cluster.engine("p0").changes.until(lambda: cluster.engine("p0").num_hang_ups == 1)
        assert cluster.cluster.faults == []


async def hang_up_during(cluster: Rig, name: str, *, stream: bool) -> None:
    """Send a request, wait until `name` works on it, leave."""
    engine = cluster.engine(name)
    work = asyncio.create_task(cluster.post(chat(stream=stream), **{"x-request-id": "left"}))
    await engine.changes.until(lambda: bool(engine.seen))
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await engine.changes.until(lambda: engine.num_hang_ups == 1)
    await cluster.releases.changes.until(lambda: bool(cluster.releases.released))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("name", "fault"), [("p0", Fault.STALL), ("d0", Fault.STALL), ("d0", Fault.STALL_MIDWAY)])
async def test_a_client_that_leaves_frees_both_sides(rig: Rigs, name: str, fault: Fault, stream: bool) -> None:
    async with rig() as cluster:
        cluster.engine(name).fault = fault
        cluster.engine(name).hold = asyncio.Event()
        await hang_up_during(cluster, name, stream=stream)
        assert cluster.releases.released == [("tcp://d0", "left")]
        assert cluster.context.scheduler.stats().num_in_flight == 0
        _, record = await cluster.get("/admin/requests/left")
        assert record["state"] == "disconnected"
        assert cluster.cluster.faults == []


async def test_a_served_request_releases_nothing(rig: Rigs) -> None:
    async with rig() as cluster:
        await cluster.post(chat())
        await cluster.stream(chat())
        assert cluster.releases.released == []


async def test_a_request_that_decode_refuses_is_released(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("d0").model = "other"
        status, _ = await cluster.post(chat())
        assert status == 404
        await cluster.releases.changes.until(lambda: bool(cluster.releases.released))


async def test_a_failed_attempt_is_released_before_the_next_one_even_when_the_agent_is_away(rig: Rigs) -> None:
    async with rig(prefill=2) as cluster:
        cluster.releases.reachable = False
        fail_first(cluster, "p", Fault.ANSWER_500)
        status, _ = await cluster.post(chat(), **{"x-request-id": "again"})
        assert status == 200
        assert cluster.releases.released == [("tcp://d0", "again")]


async def test_no_new_connection_is_refused_while_others_wait(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("p0").fault = Fault.STALL
        waiting = [asyncio.create_task(cluster.post(chat(f"prompt {i}"))) for i in range(50)]
        await cluster.engine("p0").changes.until(lambda: len(cluster.engine("p0").seen) == 50)
        assert (await cluster.get("/health"))[0] == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await cluster.engine("p0").changes.until(lambda: cluster.engine("p0").num_hang_ups == 50)


async def test_a_client_that_leaves_inside_its_body_is_forgotten(rig: Rigs) -> None:
    async with rig() as cluster:

        async def half() -> object:
            yield b'{"model":'
            raise aiohttp.ClientError("leaving")

        with pytest.raises(aiohttp.ClientError):
            await cluster.http.post(cluster.url + "/v1/chat/completions", data=half())
        assert cluster.engine("p0").seen == []
