"""What operators see: health, the cluster, requests with their reports, metrics that add up."""

import msgspec
import pytest

from memserve.core.enums import Phase, Role
from memserve.core.ids import InstanceId, RequestId
from memserve.wire.messages import DiskStats, RequestReport
from tests.fakes.engine import Fault
from tests.gateway.rig import Rigs, chat


async def test_health_is_200_while_an_instance_can_serve_and_503_after(rig: Rigs) -> None:
    async with rig() as cluster:
        assert (await cluster.get("/health"))[0] == 200
        cluster.cluster.remove("p0")
        assert (await cluster.get("/health"))[0] == 200
        cluster.cluster.remove("d0")
        assert (await cluster.get("/health"))[0] == 503
        cluster.cluster.add("m0", Role.MEMORY, "")
        assert (await cluster.get("/health"))[0] == 503


async def test_the_cluster_is_shown_with_states_and_loads(rig: Rigs) -> None:
    async with rig() as cluster:
        _, answer = await cluster.get("/admin/cluster")
        assert [i["peer"]["instance"] for i in answer["view"]["instances"]] == ["p0", "d0"]
        assert answer["view"]["instances"][0]["load"]["pool"][0]["num_free"] == 5
        assert answer["scheduler"]["num_in_flight"] == 0


async def test_a_request_can_be_looked_up_with_its_decision_and_reports(rig: Rigs) -> None:
    async with rig() as cluster:
        await cluster.post(chat(), **{"x-request-id": "a/b"})
        _, record = await cluster.get("/admin/requests/a/b")
        assert (record["state"], record["status"], record["model"]) == ("served", 200, "tiny")
        assert [(d["prefill"], d["decode"]) for d in record["decisions"]] == [("p0", "d0")]
        assert [(r["instance"], r["phase"]) for r in record["reports"]] == [("p0", "prefill"), ("d0", "decode")]
        assert record["prompt_tokens"] > 0


async def test_requests_are_listed_newest_first(rig: Rigs) -> None:
    async with rig() as cluster:
        for i in range(3):
            await cluster.post(chat(), **{"x-request-id": f"n{i}"})
        _, answer = await cluster.get("/admin/requests?limit=2")
        assert [r["request"] for r in answer["requests"]] == ["n2", "n1"]


async def test_a_report_that_comes_twice_counts_once(rig: Rigs) -> None:
    async with rig() as cluster:
        await cluster.post(chat(), **{"x-request-id": "one"})
        _, record = await cluster.get("/admin/requests/one")
        before = await cluster.metric("memserve_instance_prompt_tokens_total{")
        for told in record["reports"]:
            report = RequestReport(
                request=RequestId("one"), instance=InstanceId(told["instance"]), phase=Phase(told["phase"]),
                prompt_tokens=9, hbm_tokens=3, dram_tokens=4, received_tokens=0, computed_tokens=2, output_tokens=1,
            )  # fmt: skip
            cluster.context.reports.ingest(report)
        assert await cluster.metric("memserve_instance_prompt_tokens_total{") == before == 18


async def test_a_late_report_of_an_unknown_request_is_kept_and_counted(rig: Rigs) -> None:
    async with rig() as cluster:
        report = RequestReport(
            request=RequestId("late"), instance=InstanceId("d0"), phase=Phase.DECODE,
            prompt_tokens=9, hbm_tokens=0, dram_tokens=0, received_tokens=9, computed_tokens=0, output_tokens=5,
        )  # fmt: skip
        cluster.context.reports.ingest(report)
        assert await cluster.metric('memserve_instance_prompt_tokens_total{instance="d0",source="received"}') == 9
        assert (await cluster.get("/admin/requests/late"))[1]["reports"][0]["received_tokens"] == 9


async def test_metrics_tell_sources_transfers_pools_and_instances(rig: Rigs) -> None:
    async with rig() as cluster:
        await cluster.post(chat())
        await cluster.stream(chat())
        hop = '{path="shm",source="p0",target="d0"}'
        expected = {
            'memserve_instance_prompt_tokens_total{instance="p0",source="hbm"}': 6,
            'memserve_instance_prompt_tokens_total{instance="p0",source="computed"}': 4,
            f"memserve_transfer_bytes_total{hop}": 8192,
            f"memserve_transfer_tokens_total{hop}": 16,
            f"memserve_transfer_blocks_total{hop}": 4,
            f"memserve_transfer_calls_total{hop}": 2,
            f"memserve_transfer_seconds_count{hop}": 2,
            'memserve_gateway_requests_total{route="/v1/chat/completions",status="200"}': 2,
            "memserve_gateway_ttft_seconds_count": 1,
            'memserve_gateway_request_seconds_count{route="/v1/chat/completions"}': 2,
            'memserve_pool_blocks{instance="d0",state="free",tier="dram"}': 5,
            'memserve_cluster_instances{role="prefill",state="active"}': 1,
        }
        assert {line: await cluster.metric(line) for line in expected} == expected


async def test_metrics_tell_hits_by_tier_and_what_the_disk_did(rig: Rigs) -> None:
    async with rig() as cluster:
        report = RequestReport(
            request=RequestId("late"), instance=InstanceId("d0"), phase=Phase.WHOLE, prompt_tokens=31,
            hbm_tokens=1, dram_tokens=2, disk_tokens=4, received_tokens=8, computed_tokens=16, output_tokens=5,
        )  # fmt: skip
        cluster.context.reports.ingest(report)
        source = 'memserve_instance_prompt_tokens_total{instance="d0",source='
        tiers = ("hbm", "dram", "disk", "received", "computed")
        assert [await cluster.metric(f'{source}"{tier}"}}') for tier in tiers] == [1, 2, 4, 8, 16]
        [instance, *others] = cluster.cluster.view.instances
        load = msgspec.structs.replace(instance.load, disk=DiskStats(num_demoted=7, num_read_errors=1), num_offloaded=3)
        view = msgspec.structs.replace(
            cluster.cluster.view, instances=(msgspec.structs.replace(instance, load=load), *others)
        )
        cluster.cluster.view = view
        did = f'memserve_pool_disk_blocks_total{{instance="{instance.instance}",what='
        assert [await cluster.metric(f'{did}"{what}"}}') for what in ("demoted", "read_errors", "promoted")] == [
            7,
            1,
            0,
        ]
        assert await cluster.metric(f'memserve_pool_offloaded_blocks_total{{instance="{instance.instance}"}}') == 3


async def test_other_paths_pass_through_with_query_and_body(rig: Rigs) -> None:
    async with rig() as cluster:
        for path in ("/tokenize", "/detokenize", "/v1/embeddings?x=1%20y"):
            status, answer = await cluster.post({"prompt": "a"}, path=path)
            assert (status, answer["got"]) == (200, {"prompt": "a"})
            assert answer["path"] + ("?" + answer["query"] if answer["query"] else "") == path


async def test_a_path_passes_through_to_another_instance_when_one_fails(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("p0").fault = Fault.ANSWER_500
        status, answer = await cluster.post({}, path="/tokenize")
        assert (status, answer["engine"]) == (200, "d0")
        cluster.engine("d0").fault = Fault.ANSWER_500
        status, answer = await cluster.post({}, path="/tokenize")
        assert (status, answer["error"]["code"]) == (503, 503)


async def test_models_come_from_an_instance_or_from_the_gateways_own_name(rig: Rigs) -> None:
    async with rig() as cluster:
        _, answer = await cluster.get("/v1/models")
        assert [m["id"] for m in answer["data"]] == ["tiny"]
        cluster.cluster.remove("p0")
        cluster.cluster.remove("d0")
        status, answer = await cluster.get("/v1/models")
        assert (status, [m["id"] for m in answer["data"]]) == (200, ["tiny"])


async def test_how_kv_leaves_can_be_switched_while_serving(rig: Rigs) -> None:
    async with rig() as cluster:
        async with cluster.http.put(cluster.url + "/admin/transfer", json={"transfer": "by-layer"}) as answer:
            assert answer.status == 200
        await cluster.post(chat())
        assert cluster.engine("p0").seen[-1].body["kv_transfer_params"]["memserve"]["transfer"] == "by-layer"


async def test_an_unknown_way_for_kv_to_leave_is_refused(rig: Rigs) -> None:
    async with rig() as cluster, cluster.http.put(cluster.url + "/admin/transfer", json={"transfer": "x"}) as answer:
        assert answer.status == 400


async def test_the_policy_can_be_switched_while_serving(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=2) as cluster:
        await cluster.post(chat())
        async with cluster.http.put(cluster.url + "/admin/policy", json={"policy": "round-robin"}) as answer:
            assert (answer.status, await answer.json()) == (200, {"policy": "round-robin"})
        for _ in range(4):
            await cluster.post(chat())
        assert min(len(cluster.phases("c0")), len(cluster.phases("c1"))) >= 2
        decisions = 'memserve_scheduler_decisions_total{{placement="alone",policy="{}"}}'
        counted = [await cluster.metric(decisions.format(policy)) for policy in ("prompt-tree", "round-robin")]
        assert counted[0] == 1
        assert 2 <= counted[1] <= 4  # a pull may go before some


@pytest.mark.parametrize("body", [b'{"policy": "fastest"}', b"{}", b"no json"])
async def test_an_unknown_policy_is_refused_and_the_old_one_stays(rig: Rigs, body: bytes) -> None:
    async with rig() as cluster:
        async with cluster.http.put(cluster.url + "/admin/policy", data=body) as answer:
            assert answer.status == 400
            assert "prompt-tree" in (await answer.json())["error"]["message"]
        assert (await cluster.get("/admin/cluster"))[1]["scheduler"]["policy"] == "prompt-tree"
