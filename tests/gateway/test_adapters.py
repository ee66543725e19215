"""Prompts for an adapter are routed to who holds what that adapter has computed of them."""

from array import array

import msgspec
import pytest

from memserve.core.enums import Role, Tier
from memserve.core.ids import Incarnation, InstanceId
from memserve.wire.events import BlocksStored, EventBatch, SnapshotPart
from memserve.wire.identity import adapter_key, namespace
from tests.gateway.rig import BLOCK_SIZE, Rig, Rigs

PROMPT = "what the poet was asked before, and at some length"
FOLDER = "/adapters/poet"


def holds(rig: Rig, instance: str, *, adapter: str) -> None:
    """This instance announces that it has the prompt as this adapter sees it."""
    name, incarnation, scheduler = InstanceId(instance), Incarnation(1), rig.context.scheduler
    tokens = array("i", list(msgspec.json.encode(PROMPT)))
    stored = BlocksStored(
        seq=1,
        namespace=namespace(adapter=adapter),
        tokens=tokens[: len(tokens) // BLOCK_SIZE * BLOCK_SIZE].tobytes(),
        num_blocks=len(tokens) // BLOCK_SIZE,
        tier=Tier.DRAM,
    )
    scheduler.admit(name, incarnation, Role.COLOCATED)
    scheduler.reset(
        SnapshotPart(instance=name, incarnation=incarnation, seq=0, entries=(), is_first=True, is_last=True)
    )
    scheduler.apply(EventBatch(instance=name, incarnation=incarnation, events=(stored,), as_of=0.0))


async def matched(rig: Rig, model: str) -> int:
    """Leading tokens that the chosen instance was known to hold."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": 2}
    assert (await rig.post(body, path="/v1/completions", **{"x-request-id": f"to-{model}"}))[0] == 200
    _, record = await rig.get(f"/admin/requests/to-{model}")
    return int(record["decisions"][0]["candidates"][0]["matched_tokens"])


@pytest.mark.parametrize("name", ["poet", "tiny"])
async def test_only_the_adapter_that_computed_a_prompt_finds_it(rig: Rigs, name: str) -> None:
    async with rig(prefill=0, decode=0, colocated=2) as cluster:
        for engine in cluster.engines.values():
            engine.adapters["poet"] = FOLDER
        holds(cluster, "c1", adapter=adapter_key("poet", FOLDER))
        found = await matched(cluster, name)
    assert (found > 0) == (name == "poet")
