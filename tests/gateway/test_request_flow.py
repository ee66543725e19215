"""A request over a prefill and a decode instance: what each is sent, and what the client gets."""

import asyncio

from memserve.core.enums import Role
from memserve.core.ids import InstanceId, RequestId
from tests.fakes.engine import Fault
from tests.gateway.rig import Rigs, chat


async def test_the_prompt_goes_to_prefill_first_and_then_to_decode(rig: Rigs) -> None:
    async with rig() as cluster:
        status, answer = await cluster.post(chat())
        assert status == 200
        assert answer["choices"][0]["message"]["content"].startswith("Paged memory")
        assert (cluster.phases("p0"), cluster.phases("d0")) == (["prefill"], ["decode"])


async def test_each_instance_is_told_who_its_peer_is(rig: Rigs) -> None:
    async with rig() as cluster:
        await cluster.post(chat(), **{"x-request-id": "abc"})
        prefill, decode = (cluster.engine(n).seen[0].body["kv_transfer_params"]["memserve"] for n in ("p0", "d0"))
        assert (prefill["request"], prefill["peer"]["instance"]) == ("abc", "d0")
        assert (decode["request"], decode["peer"]["instance"]) == ("abc", "p0")


async def test_who_computes_is_told_where_more_of_the_prompt_is(rig: Rigs) -> None:
    async with rig() as cluster:
        await cluster.post(chat())
        cluster.context.scheduler.forget(InstanceId("p0"))
        await cluster.post(chat(), **{"x-request-id": "again"})
        prefill, decode = (cluster.engine(n).seen[-1].body["kv_transfer_params"]["memserve"] for n in ("p0", "d0"))
        assert prefill["source"]["instance"] == "d0"
        assert prefill["source"]["endpoint"] == "tcp://d0"
        assert "source" not in decode
        assert "source" not in cluster.engine("p0").seen[0].body["kv_transfer_params"]["memserve"]
        record = cluster.context.history.find(RequestId("again"))
        assert record is not None
        assert record.decisions[0].source == "d0"


async def test_a_colocated_instance_is_told_where_more_of_the_prompt_is(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=2) as cluster:
        await cluster.post(chat(), **{"x-request-id": "first"})
        record = cluster.context.history.find(RequestId("first"))
        assert record is not None
        holder, view = record.decisions[0].decode, cluster.cluster.view
        others = frozenset(i.instance for i in view.instances if i.instance != holder)
        busy = RequestId("busy")
        cluster.context.scheduler.decide(request=busy, tokens=[1] * 100_000, view=view, exclude=others)
        await cluster.post(chat())
        [other] = [engine for name, engine in cluster.engines.items() if name != holder]
        assert other.seen[0].body["kv_transfer_params"]["memserve"]["source"]["instance"] == holder


async def test_prefill_is_sent_no_output_fields_but_all_that_shapes_the_prompt(rig: Rigs) -> None:
    output = {
        "stream": True, "stream_options": {"include_usage": True}, "max_completion_tokens": 50, "min_tokens": 5,
        "n": 2, "logprobs": True, "top_logprobs": 3, "return_token_ids": True,
    }  # fmt: skip
    prompt = {
        "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto", "documents": [{"a": "b"}],
        "chat_template_kwargs": {"x": 1}, "add_generation_prompt": False, "continue_final_message": True,
        "cache_salt": "pepper", "temperature": 0.0, "response_format": {"type": "text"},
    }  # fmt: skip
    async with rig() as cluster:
        async with cluster.http.post(cluster.url + "/v1/chat/completions", json=chat(**output, **prompt)) as response:
            await response.read()
        sent = dict(cluster.engine("p0").seen[0].body)
        del sent["kv_transfer_params"]
        assert sent == chat(**prompt, max_tokens=1)


async def test_decode_gets_the_clients_values_byte_for_byte(rig: Rigs) -> None:
    body = (
        b'{"model":"tiny","messages":[{"role":"user","content":"\\u00e9 \xc3\xa9"}],'
        b'"temperature":1.50e0,"seed":12345678901234567890123}'
    )
    async with rig() as cluster:
        await cluster.post(body)
        assert cluster.engine("d0").seen[0].raw.startswith(body[:-1] + b',"kv_transfer_params":{"memserve":{')


async def test_headers_of_the_client_reach_the_engine_and_the_engines_reach_the_client(rig: Rigs) -> None:
    async with rig() as cluster:
        headers = {"authorization": "Bearer x", "x-request-id": "r1", "accept-encoding": "gzip"}
        async with cluster.http.post(cluster.url + "/v1/chat/completions", json=chat(), headers=headers) as response:
            assert response.headers["x-engine"] == "fake"
            assert response.headers["x-request-id"] == "r1"
        seen = cluster.engine("d0").seen[0].headers
        assert (seen["authorization"], seen["x-request-id"]) == ("Bearer x", "r1")
        assert seen["accept-encoding"] == "identity"


async def test_a_colocated_instance_does_all_of_it(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=2) as cluster:
        status, answer = await cluster.post(chat())
        assert status == 200
        [name] = [n for n, engine in cluster.engines.items() if engine.seen]
        assert cluster.phases(name) == ["whole"]
        assert "peer" not in cluster.engine(name).seen[0].body["kv_transfer_params"]["memserve"]
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 8
        assert answer["kv_transfer_params"] is None


async def test_requests_that_need_the_whole_computation_skip_prefill(rig: Rigs) -> None:
    async with rig() as cluster:
        path = "/v1/completions"
        for fields in (
            {"prompt_logprobs": 0},
            {"echo": True, "logprobs": 1},
            {"use_beam_search": True},
            {"prompt": ["one", "two"]},
            {"prompt": [[1, 2], [3]]},
            {"truncate_prompt_tokens": -1},
        ):
            status, _ = await cluster.post({"model": "tiny", "prompt": "text", **fields}, path=path)
            assert status == 200
        assert cluster.phases("p0") == []
        assert cluster.phases("d0") == ["whole"] * 6


async def test_one_prompt_in_a_list_and_plain_token_ids_are_prefilled(rig: Rigs) -> None:
    async with rig() as cluster:
        for prompt in ("text", ["text"], [1, 2, 3], [[1, 2, 3]]):
            await cluster.post({"model": "tiny", "prompt": prompt}, path="/v1/completions")
        assert cluster.phases("p0") == ["prefill"] * 4


async def test_a_refusal_by_prefill_reaches_the_client_unchanged(rig: Rigs) -> None:
    async with rig() as cluster:
        status, answer = await cluster.post({**chat(), "model": "nobody"})
        assert status == 404
        assert answer["error"]["message"] == "The model `nobody` does not exist. Valid aliases: tiny."
        assert cluster.phases("d0") == []
        assert cluster.cluster.faults == []


async def test_what_the_model_cannot_do_is_told_and_is_no_fault(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("p0").fault = Fault.ANSWER_501
        status, answer = await cluster.post(chat())
        assert (status, answer["error"]["message"]) == (501, "no chat here")
        assert cluster.cluster.faults == []


async def test_a_max_tokens_that_vllm_refuses_reaches_it_as_it_is(rig: Rigs) -> None:
    async with rig() as cluster:
        for limit in (-1, 0, "many"):
            status, answer = await cluster.post(chat(max_tokens=limit))
            assert (status, answer["error"]["param"]) == (400, "max_tokens")
        assert cluster.phases("p0") == []


async def test_the_same_request_id_twice_is_told_apart(rig: Rigs) -> None:
    async with rig() as cluster:
        for _ in range(2):
            await cluster.post(chat(), **{"x-request-id": "same"})
        first, second = (s.body["kv_transfer_params"]["memserve"]["request"] for s in cluster.engine("d0").seen)
        assert first == "same"
        assert second.startswith("same-")


async def test_a_prompt_that_was_seen_goes_where_its_prefix_is(rig: Rigs) -> None:
    async with rig(prefill=3, decode=1) as cluster:
        for _ in range(4):
            await cluster.post(chat("a prompt long enough to fill several blocks of four tokens"))
        assert sorted(len(cluster.phases(f"p{i}")) for i in range(3)) == [0, 0, 4]


async def test_many_requests_at_once_are_served_each_with_its_own_answer(rig: Rigs) -> None:
    async with rig(prefill=2, decode=2) as cluster:
        answers = await asyncio.gather(*(cluster.post(chat(f"number {i}")) for i in range(40)))
        assert [status for status, _ in answers] == [200] * 40
        assert len({answer["id"] for _, answer in answers}) == 40
        assert cluster.context.scheduler.stats().num_in_flight == 0


async def test_salt_and_adapter_keep_prompts_apart_in_routing(rig: Rigs) -> None:
    async with rig(prefill=1, decode=1) as cluster:
        text = "a prompt long enough to fill several blocks of four tokens"
        matched = []
        for number, fields in enumerate(({}, {}, {"cache_salt": "s"}, {"model": "an-adapter"})):
            await cluster.post({**chat(text), **fields}, **{"x-request-id": f"n{number}"})
            _, record = await cluster.get(f"/admin/requests/n{number}")
            [decision] = record["decisions"]
            matched.append([c["matched_tokens"] > 0 for c in decision["candidates"] if c["role"] == Role.PREFILL])
        assert matched == [[False], [True], [False], [False]]


async def test_instances_of_any_role_serve_a_request_alone_and_work_as_a_pair_when_one_decodes(rig: Rigs) -> None:
    async with rig(prefill=1, decode=0, flexible=1) as cluster:
        for _ in range(6):
            status, _ = await cluster.post(chat())
            assert status == 200
        assert set(cluster.phases("p0")) <= {"prefill"}
        assert set(cluster.phases("f0")) <= {"whole", "decode"}
        status, _ = await cluster.post(chat(prompt_logprobs=1))  # cannot be split
        assert status == 200
        assert cluster.phases("f0")[-1] == "whole"
