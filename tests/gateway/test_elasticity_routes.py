"""Commands over HTTP: what begins is told at once and can be followed, what is refused says why."""

from typing import Any

import pytest

from memserve.manager.operations import OperationState
from tests.gateway.rig import Rig, Rigs

COMMANDS = [
    ("drain", {"instance": "d0"}, "drain", "d0"),
    ("role", {"instance": "d0", "role": "prefill"}, "role", "d0"),
    ("scale", {"decode": 2}, "start", "decode-2"),
]


async def send(cluster: Rig, command: str, body: Any) -> tuple[int, Any]:
    async with cluster.http.post(f"{cluster.url}/admin/{command}", json=body) as answer:
        return answer.status, await answer.json()


async def get(cluster: Rig, path: str) -> tuple[int, Any]:
    async with cluster.http.get(f"{cluster.url}/admin/{path}") as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize(("command", "body", "kind", "instance"), COMMANDS)
async def test_a_command_is_answered_with_its_operations(
    rig: Rigs, command: str, body: Any, kind: str, instance: str
) -> None:
    async with rig() as cluster:
        status, answer = await send(cluster, command, body)
        assert status == 202
        (begun,) = answer["operations"]
        assert (begun["kind"], begun["instance"], begun["state"]) == (kind, instance, "running")
        operation = cluster.cluster.operations.find(begun["id"])
        assert operation is not None
        cluster.cluster.operations.tell(operation, "all went over", OperationState.DONE)
        assert (await get(cluster, f"operations/{begun['id']}"))[1]["step"] == "all went over"
        assert (await get(cluster, "operations"))[1]["operations"][-1]["state"] == "done"


@pytest.mark.parametrize(("command", "body", "kind", "instance"), COMMANDS)
async def test_a_refused_command_gives_the_reason(rig: Rigs, command: str, body: Any, kind: str, instance: str) -> None:
    async with rig() as cluster:
        cluster.cluster.refusal = f"{instance} is the last one: {kind} it later"
        status, answer = await send(cluster, command, body)
        assert (status, answer["error"]["message"]) == (409, cluster.cluster.refusal)
        assert (await get(cluster, "operations"))[1] == {"operations": []}


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("drain", {}),
        ("drain", {"instance": "d0", "force": True}),
        ("role", {"instance": "d0", "role": "king"}),
        ("scale", {}),
        ("scale", {"king": 1}),
        ("scale", {"decode": "two"}),
        ("scale", [1]),
    ],
)
async def test_what_is_no_command_is_answered_with_an_example(rig: Rigs, command: str, body: Any) -> None:
    async with rig() as cluster:
        status, answer = await send(cluster, command, body)
        assert status == 400
        assert "send {" in answer["error"]["message"]


async def test_an_operation_that_never_was_is_not_found(rig: Rigs) -> None:
    async with rig() as cluster:
        status, answer = await get(cluster, "operations/7")
        assert (status, answer["error"]["message"]) == (404, "there is no operation 7, or no longer")


async def test_it_says_where_instances_join(rig: Rigs) -> None:
    async with rig() as cluster:
        assert (await get(cluster, "join"))[1] == {"manager": "tcp://127.0.0.1:7000"}


async def test_without_an_autoscaler_it_is_said_to_be_off(rig: Rigs) -> None:
    async with rig() as cluster:
        status, report = await get(cluster, "autoscaler")
    assert (status, report["mode"], report["decided"]) == (200, "off", [])
