"""A stream that is told again: the client gets each thing once, however the engines cut their events."""

from collections import defaultdict
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from memserve.gateway.replay import Replay

Atom = tuple[int, str, str]  # choice, what grows, by what
KINDS = ("content", "reasoning", "arguments", "text")
ATOMS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(KINDS), st.text("ab{", min_size=1, max_size=3)), max_size=12
)
CUTS = st.sets(st.integers(0, 12))


def event_of(choice: int, kind: str, text: str) -> bytes:
    entries = [{"token": character, "logprob": -0.5} for character in text]
    grown: dict[str, Any] = {"delta": {kind: text}, "logprobs": {"content": entries}}
    if kind == "text":
        grown = {"text": text, "logprobs": {"tokens": list(text)}, "token_ids": [ord(c) for c in text]}
    elif kind == "arguments":
        grown["delta"] = {"tool_calls": [{"index": 0, "id": "random", "function": {"arguments": text}}]}
    told = {"id": "x", "created": 3, "choices": [{"index": choice, **grown, "finish_reason": None}]}
    return b"data: " + msgspec.json.encode(told) + b"\n\n"


def events_of(atoms: list[Atom], cuts: set[int]) -> list[bytes]:
    """An event for each atom, but those that go on in the same place are one unless there is a cut."""
    merged: list[Atom] = []
    for number, (choice, kind, text) in enumerate(atoms):
        if merged and merged[-1][:2] == (choice, kind) and number not in cuts:
            merged[-1] = (choice, kind, merged[-1][2] + text)
        else:
            merged.append((choice, kind, text))
    ends = [
        b"data: "
        + msgspec.json.encode({"created": 3, "choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]})
        + b"\n\n"
        for i in (0, 1)
    ]
    return [*(event_of(*atom) for atom in merged), *ends, b"data: [DONE]\n\n"]


def folded(stream: bytes) -> dict[Any, str]:
    """All that was said."""
    said: dict[Any, str] = defaultdict(str)
    for event in stream.split(b"\n\n"):
        if not event.startswith(b"data: {"):
            said["rest"] += event.decode()
            continue
        for choice in msgspec.json.decode(event[6:])["choices"]:
            grown = choice.get("delta", choice)
            calls = grown.get("tool_calls") or [{"function": {}}]
            for kind in KINDS:
                said[choice["index"], kind] += grown.get(kind) or calls[0]["function"].get(kind) or ""
            logprobs = choice.get("logprobs") or {}
            entries = [e["token"] for e in logprobs.get("content", ())] + logprobs.get("tokens", [])
            said[choice["index"], "logprobs"] += "".join(entries)
            said[choice["index"], "end"] += choice["finish_reason"] or ""
    return dict(said)


@given(atoms=ATOMS, runs=st.lists(st.tuples(CUTS, st.integers(0, 15)), max_size=3), last=CUTS)
def test_each_thing_is_said_once(atoms: list[Atom], runs: list[tuple[set[int], int]], last: set[int]) -> None:
    replay, received = Replay(), b""
    for cuts, end in (*runs, (last, None)):
        for event in events_of(atoms, cuts)[:end]:
            received += replay.pass_on(event)
        replay.rewind()
    whole = b"".join(events_of(atoms, set()))
    assert not replay.has_diverged
    assert {k: v for k, v in folded(received).items() if k != "rest" and v} == {
        k: v for k, v in folded(whole).items() if k != "rest" and v
    }


def test_another_answer_is_noticed_before_any_of_it_is_sent() -> None:
    replay = Replay()
    replay.pass_on(event_of(0, "content", "ab"))
    replay.rewind()
    assert replay.pass_on(event_of(0, "content", "a")) == b""
    assert replay.pass_on(event_of(0, "content", "a")) == b""
    assert replay.has_diverged


def test_an_event_that_is_told_in_part_is_cut() -> None:
    replay = Replay()
    replay.pass_on(event_of(0, "text", "ab"))
    replay.rewind()
    [choice] = msgspec.json.decode(replay.pass_on(event_of(0, "text", "abc"))[6:])["choices"]
    assert (choice["text"], choice["token_ids"], choice["logprobs"]) == ("c", [99], {"tokens": ["c"]})
