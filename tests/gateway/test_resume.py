"""Instances that die in the middle of an answer: another one goes on, and the client sees one unbroken answer."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.engine import Fault
from tests.fakes.model import PIECES, SCRIPT
from tests.gateway.rig import Rig, Rigs, chat, fail_first, plain_answer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
FIELDS: list[dict[str, Any]] = [
    {},
    USAGE,
    {"stop": "ry m"},
    {"max_tokens": 12, "min_tokens": 11},
    {"ignore_eos": True, "max_tokens": 20},
]
FAULTS = [Fault.NONE, Fault.CUT, Fault.DIE_INSIDE, Fault.END_EARLY, Fault.ANSWER_500]
NUM_EVENTS = len(PIECES) + 4  # the role, the pieces, the end, the usage and [DONE]: breaking after more breaks nothing


def body_of(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    return chat(stream=True, **fields) if path == CHAT else {"model": "tiny", "prompt": "hi", "stream": True, **fields}


def without_cached_tokens(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the dead instance had cached is not known."""
    for event in events:
        ((event.get("usage") or {}).get("prompt_tokens_details") or {}).pop("cached_tokens", None)
    return events


def says_something(event: dict[str, Any]) -> bool:
    """Tokens of an unfinished character have an event without text, which may come again."""
    return any(
        choice["finish_reason"] or choice.get("text") or any((choice.get("delta") or {}).values())
        for choice in event["choices"]
    ) or bool(event.get("usage"))


async def check(cluster: Rig, path: str, fields: dict[str, Any], *, keep: Callable[..., bool] = bool) -> None:
    body = body_of(path, fields)
    received = without_cached_tokens(await cluster.ask(path, body))
    expected = without_cached_tokens(plain_answer(path, body))
    ours, theirs = ([e | {"system_fingerprint": None} for e in events if keep(e)] for events in (received, expected))
    assert ours == theirs


def break_everything(cluster: Rig, fault: Fault, *, after: int, times: int) -> None:
    """Whichever instance is asked breaks, `times` times; what a prefill instance answers counts, too."""
    to_come = [fault] * times + [Fault.NONE]
    for engine in cluster.engines.values():
        engine.break_after = after
        engine.faults_to_come = to_come


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("fault", [Fault.CUT, Fault.DIE_INSIDE, Fault.END_EARLY])
@pytest.mark.parametrize("fields", [{}, USAGE, {"stop": ["memory moves"]}, {"stop": "es \u00e9"}, {"max_tokens": 5}])
async def test_a_colocated_instance_that_dies_after_any_event_is_carried_on(
    rig: Rigs, path: str, fault: Fault, fields: dict[str, Any]
) -> None:
    for after in range(NUM_EVENTS):
        async with rig(prefill=0, decode=0, colocated=2) as cluster:
            break_everything(cluster, fault, after=after, times=1)
            await check(cluster, path, {"temperature": 0, **fields})
            assert cluster.context.scheduler.stats().num_in_flight == 0


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("fault", [Fault.CUT, Fault.DIE_INSIDE, Fault.END_EARLY])
async def test_a_decode_instance_that_dies_after_any_event_is_carried_on(rig: Rigs, path: str, fault: Fault) -> None:
    for after in range(NUM_EVENTS):
        async with rig(prefill=1, decode=2) as cluster:
            for name in ("d0", "d1"):
                cluster.engine(name).break_after = after
            fail_first(cluster, "d", fault)
            await check(cluster, path, USAGE)
            assert cluster.context.scheduler.stats().num_in_flight == 0


async def test_without_another_decode_instance_the_prefill_instance_goes_on(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("d0").fault = Fault.CUT
        await check(cluster, CHAT, USAGE)
        assert cluster.phases("p0") == ["prefill", "whole"]
        assert cluster.engine("p0").seen[1].body["prompt"][-3:] == list(SCRIPT[:3])


@given(
    layout=st.sampled_from([(2, 2, 0), (3, 1, 0), (1, 3, 0), (0, 0, 4), (1, 1, 0)]),
    faults=st.lists(st.sampled_from(FAULTS), max_size=3),
    after=st.integers(0, NUM_EVENTS),
    asked=st.tuples(st.sampled_from([CHAT, TEXT]), st.sampled_from(FIELDS)),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whoever_dies_whenever_the_text_is_the_same(
    rig: Rigs, layout: tuple[int, int, int], faults: list[Fault], after: int, asked: tuple[str, dict[str, Any]]
) -> None:
    prefill, decode, colocated = layout
    async with rig(prefill=prefill, decode=decode, colocated=colocated) as cluster:
        num_spare = prefill + decode + colocated - 1
        to_come = [*faults[:num_spare], *[Fault.NONE] * 20]
        for engine in cluster.engines.values():
            engine.break_after, engine.faults_to_come = after, to_come
        await check(cluster, *asked)


async def test_a_stream_that_dies_twice_is_carried_on_twice(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=3) as cluster:
        break_everything(cluster, Fault.CUT, after=3, times=2)
        await check(cluster, CHAT, USAGE)
        _, record = await cluster.get("/admin/requests?limit=1")
        [record] = record["requests"]
        assert (record["state"], record["resumed_at"], len(record["decisions"])) == ("served", [2, 5], 3)
        assert await cluster.metric("memserve_gateway_resumes_total") == 2


async def test_when_all_die_the_stream_ends_with_an_error_in_its_own_form(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=2) as cluster:
        break_everything(cluster, Fault.CUT, after=3, times=9)
        received = await cluster.stream(chat())
        *_, error, done, rest = received.split(b"\n\n")
        assert (done, rest) == (b"data: [DONE]", b"")
        assert b'"code":503' in error


@pytest.mark.parametrize(
    "fields",
    [{"seed": 1}, {"temperature": 0, "logprobs": True, "stream_options": {"include_usage": True}}, {"seed": 0, "n": 2}],
)
async def test_what_comes_out_the_same_every_time_is_told_again_from_the_start(
    rig: Rigs, fields: dict[str, Any]
) -> None:
    for after in range(NUM_EVENTS):
        async with rig(prefill=1, decode=2) as cluster:
            for name in ("d0", "d1"):
                cluster.engine(name).break_after = after
            fail_first(cluster, "d", Fault.CUT)
            await check(cluster, CHAT, fields, keep=says_something)


async def test_an_instance_that_says_something_else_is_not_listened_to(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=2) as cluster:
        for engine in cluster.engines.values():
            engine.break_after = 3
        fail_first(cluster, "c", Fault.CUT, Fault.OTHER_TEXT)
        received = await cluster.stream(chat(seed=1))
        assert b"gave another one" in received
        assert received.count(b"Paged") == 1
        assert len(cluster.cluster.faults) == 1


@pytest.mark.parametrize("fields", [{"logprobs": True}, {"presence_penalty": 1}, {"n": 2}])
async def test_what_cannot_be_continued_ends_with_an_error(rig: Rigs, fields: dict[str, Any]) -> None:
    async with rig(prefill=0, decode=0, colocated=2) as cluster:
        break_everything(cluster, Fault.CUT, after=3, times=1)
        assert b"broke off" in await cluster.stream(chat(**fields))


async def test_text_that_its_tokens_do_not_explain_is_not_continued(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=2) as cluster:
        break_everything(cluster, Fault.CUT, after=3, times=1)
        for engine in cluster.engines.values():
            engine.rewrites_text = True
        assert b"broke off" in await cluster.stream(chat())


async def test_without_retries_left_nothing_is_tried_again(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=2, retry_reserve=1) as cluster:
        for number in range(2):
            break_everything(cluster, Fault.ANSWER_500, after=0, times=1)
            status, answer = await cluster.post(chat(f"prompt {number}"))
        assert status == 503
        assert "retry budget" in answer["error"]["message"]
        assert await cluster.metric("memserve_gateway_retries_refused_total") == 1
        assert await cluster.metric("memserve_gateway_retries_left") == 0
        for engine in cluster.engines.values():
            engine.fault = Fault.ANSWER_500
        status, answer = await cluster.post({"prompt": "x"}, path="/tokenize")
        assert status == 503
        assert "retry budget" in answer["error"]["message"]


async def test_a_client_that_leaves_while_its_stream_is_carried_on_frees_everything(rig: Rigs) -> None:
    async with rig(prefill=1, decode=2) as cluster:
        decodes = [cluster.engine("d0"), cluster.engine("d1")]
        fail_first(cluster, "d", Fault.CUT, Fault.STALL_MIDWAY)
        async with cluster.http.post(cluster.url + CHAT, json=chat(stream=True)) as response:
            await response.content.readuntil(b"memory")
            second = next(engine for engine in decodes if engine.fault is not Fault.CUT)
            await second.changes.until(lambda: len(second.sent) == 2)
            response.close()
        await second.changes.until(lambda: second.num_hang_ups == 1)
        await cluster.releases.changes.until(
            lambda: {endpoint for endpoint, _ in cluster.releases.released} == {"tcp://d0", "tcp://d1"}
        )
        assert cluster.context.scheduler.stats().num_in_flight == 0


async def test_the_deadline_bounds_a_stream_that_is_carried_on(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=2, deadline_s=0.5) as cluster:
        fail_first(cluster, "c", Fault.CUT, Fault.STALL_MIDWAY)
        assert b'"code":504' in await cluster.stream(chat())
        assert cluster.context.scheduler.stats().num_in_flight == 0


async def test_an_instance_that_has_started_again_may_go_on_itself(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=1) as cluster:
        cluster.cluster.restarts_at_once = True
        cluster.engine("c0").break_after = 4
        fail_first(cluster, "c", Fault.CUT, Fault.NONE)
        await check(cluster, CHAT, USAGE)
        assert cluster.phases("c0") == ["whole", "whole"]


async def test_an_answer_that_lacks_only_its_end_needs_nobody_and_no_retry(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=1, retry_reserve=0) as cluster:
        cluster.engine("c0").break_after = len(PIECES) + 2  # the role, the pieces and the end of the sequence
        fail_first(cluster, "c", Fault.CUT)
        await check(cluster, CHAT, USAGE)
        assert cluster.phases("c0") == ["whole"]
