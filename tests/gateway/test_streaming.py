"""Streams: bytes pass as they come, only usage is put right, a slow reader holds up nobody else."""

import asyncio
import re

import msgspec
import pytest

from memserve.gateway.engine_events import EventCutter
from memserve.gateway.response_body import put_usage_right
from tests.fakes.engine import Fault
from tests.fakes.model import PIECES
from tests.gateway.rig import Rigs, chat


def usages(stream: bytes) -> list[int]:
    """cached_tokens of each event that has a usage."""
    events = [msgspec.json.decode(e[6:]) for e in stream.split(b"\n\n") if e.startswith(b"data: {")]
    return [e["usage"]["prompt_tokens_details"]["cached_tokens"] for e in events if e.get("usage") and not e["choices"]]


async def test_a_stream_that_is_not_continued_passes_byte_for_byte(rig: Rigs) -> None:
    async with rig() as cluster:
        for path in ("/v1/chat/completions", "/v1/completions"):
            cluster.engine("d0").sent.clear()
            received = await cluster.stream({**chat(), "prompt": "text", "seed": 1}, path=path)
            assert received == b"".join(cluster.engine("d0").sent)
            assert received.endswith(b"data: [DONE]\n\n")


async def test_usage_in_a_stream_tells_what_the_prefill_instance_had_cached(rig: Rigs) -> None:
    async with rig() as cluster:
        received = await cluster.stream(chat(stream_options={"include_usage": True}, seed=1))
        assert usages(received) == [7]
        sent = cluster.engine("d0").sent
        untouched = [event for event in sent if b'"usage":{' not in event]
        assert [e + b"\n\n" for e in received.split(b"\n\n") if e and b'"usage":{' not in e] == untouched


async def test_usage_of_a_colocated_stream_is_what_vllm_says(rig: Rigs) -> None:
    async with rig(prefill=0, decode=0, colocated=1) as cluster:
        received = await cluster.stream(chat(stream_options={"include_usage": True}))
        sent = b"".join(cluster.engine("c0").sent)
        assert received == re.sub(rb'token_ids":\[[0-9,]+\]', b'token_ids":null', sent)


async def test_usage_of_a_whole_answer_is_put_right_and_everything_else_is_kept(rig: Rigs) -> None:
    async with rig() as cluster:
        async with cluster.http.post(cluster.url + "/v1/chat/completions", json=chat(seed=1)) as response:
            received = await response.read()
        [sent] = cluster.engine("d0").sent
        expected = msgspec.json.decode(sent)
        expected["usage"]["prompt_tokens_details"]["cached_tokens"] = 7
        expected["kv_transfer_params"] = None
        assert msgspec.json.decode(received) == expected
        assert b'"score":1e-7' in received


async def test_without_a_report_no_cached_tokens_are_claimed(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("p0").send_report = False
        _, answer = await cluster.post(chat())
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_events_reach_the_client_before_the_stream_ends(rig: Rigs) -> None:
    async with rig() as cluster:
        hold = cluster.engine("d0").hold = asyncio.Event()
        async with cluster.http.post(cluster.url + "/v1/chat/completions", json=chat(stream=True, seed=1)) as response:
            start = await response.content.readuntil(b"\n\n")
            start += await response.content.readuntil(b"\n\n")
            assert b"Paged" in start
            hold.set()
            rest = await response.read()
        assert start + rest == b"".join(cluster.engine("d0").sent)


async def test_a_slow_reader_does_not_hold_others_up(rig: Rigs) -> None:
    async with rig() as cluster:
        engine = cluster.engine("d0")
        engine.num_words = 200_000
        async with cluster.http.post(cluster.url + "/v1/chat/completions", json=chat(stream=True)) as unread:
            await unread.content.readuntil(b"\n\n")
            await engine.changes.until(lambda: len(engine.sent) > 1000)
            engine.num_words = len(PIECES)
            answers = await asyncio.gather(*(cluster.stream(chat(f"other {i}")) for i in range(8)))
            assert all(a.endswith(b"data: [DONE]\n\n") for a in answers)
            unread.close()
        await engine.changes.until(lambda: engine.num_hang_ups == 1)


async def test_a_stream_that_breaks_ends_with_an_error_event_and_done(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("d0").fault = Fault.CUT
        received = await cluster.stream(chat(presence_penalty=1))
        *events, error, done, rest = received.split(b"\n\n")
        assert len(events) == 2
        assert (done, rest) == (b"data: [DONE]", b"")
        told = msgspec.json.decode(error[6:])["error"]
        assert (told["type"], told["code"]) == ("InternalServerError", 500)
        assert "d0" in told["message"]


async def test_a_stalled_stream_ends_when_its_instance_leaves_the_cluster(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("d0").fault = Fault.STALL_MIDWAY
        async with cluster.http.post(cluster.url + "/v1/chat/completions", json=chat(stream=True, n=2)) as response:
            await response.content.readuntil(b"\n\n")
            cluster.cluster.remove("d0")
            assert b"left the cluster" in await response.read()
        await cluster.engine("d0").changes.until(lambda: cluster.engine("d0").num_hang_ups == 1)


async def test_the_deadline_ends_a_stalled_stream(rig: Rigs) -> None:
    async with rig(deadline_s=0.3) as cluster:
        cluster.engine("d0").fault = Fault.STALL_MIDWAY
        assert b'"code":504' in await cluster.stream(chat())


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_events_come_out_whole_however_the_bytes_are_cut(size: int) -> None:
    untouched = b'data: {"a":"\\"cached_tokens\\":"}\n\n: hi\n\ndata: {"usage":null}\n\ndata: {"usage":{"x":1}}\n\n'
    usage = b'data: {"usage":{"x":1,"prompt_tokens_details":{"cached_tokens":0,"z":1e-7}},"y":1.0}\n\n'
    stream = untouched + usage + b"data: [DONE]\n\n"
    cutter = EventCutter()
    cut = [cutter.feed(stream[i : i + size]) for i in range(0, len(stream), size)]
    parts = [put_usage_right(part, cached_tokens=5) for part in cut]
    assert all(part.endswith(b"\n\n") for part in parts if part)
    assert b"".join(parts) + cutter.close() == stream.replace(b'"cached_tokens":0', b'"cached_tokens":5')
