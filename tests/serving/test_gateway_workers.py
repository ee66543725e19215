"""One gateway as several processes: real workers, pools and HTTP; engines that fake."""

import asyncio
import os
import re
import signal
from collections import Counter
from typing import Any

import aiohttp
import psutil

from tests.serving.processes import Command, memserve

BODY = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Hello!"}]}
FROM = re.compile(r"-w(\d)\Z")


class Clients:
    """Each request on a connection of its own, so that the kernel deals them out among the workers."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            assert answer.status == 200, await answer.text()
            return await (answer.json() if "json" in answer.content_type else answer.text())

    async def ask(self) -> tuple[str, Any]:
        """Id and choices; asked again where the connection is lost, as clients do."""
        while True:
            try:
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(f"{self.url}/v1/chat/completions", json=BODY) as answer,
                ):
                    body = await answer.json()
                    assert answer.status == 200, body
                    return answer.headers["x-request-id"], body["choices"]
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)

    async def ask_each(self, *workers: int) -> list[str]:
        """Until each of these workers has answered; the ids. All answers are the same."""
        ids: list[str] = []
        while not set(workers) <= {worker_of(name) for name in ids}:
            answers = await asyncio.gather(*(self.ask() for _ in range(8)))
            assert all(choices == answers[0][1] for _, choices in answers)
            ids += [name for name, _ in answers]
        return ids

    async def decisions(self) -> Counter[tuple[str, str]]:
        """So far, by policy and worker, as the scrape tells."""
        line = re.compile(r'memserve_scheduler_decisions_total\{.*policy="([a-z-]+)",worker="(\d)"\} (\S+)')
        counted: Counter[tuple[str, str]] = Counter()
        for policy, worker, value in line.findall(await self.get("/metrics")):
            counted[policy, worker] += round(float(value))
        return counted


def worker_of(request: str) -> int:
    found = FROM.search(request)
    assert found, request
    return int(found[1])


async def test_two_workers_serve_one_port_as_one_gateway_and_none_is_missed_for_long_when_it_is_killed() -> None:
    arguments = ("serve", "--port", "0", "--colocated", "1", "--dram", "384MiB", "--workers", "2")
    async with memserve(*arguments) as command, asyncio.timeout(100):
        clients = Clients(await command.url())
        ids = await clients.ask_each(0, 1)
        await everybody_tells_of_all(clients, ids)
        await one_switch_reaches_all(clients)
        (other,) = (await clients.get("/admin/cluster"))["workers"]
        os.kill(other["pid"], signal.SIGKILL)
        while not (again := (await clients.get("/admin/cluster"))["workers"][0])["pid"] or again == other:
            await clients.ask()
            await asyncio.sleep(0.1)  # leaves the machine to the process that starts
        assert (again["num_restarts"], again["pid"] != other["pid"]) == (1, True)
        before = await clients.decisions()
        await clients.ask_each(0, 1)
        assert {policy for policy, _ in await clients.decisions() - before} == {"least-load"}, "it was told of it, too"
        await nothing_outlives(command)


async def everybody_tells_of_all(clients: Clients, ids: list[str]) -> None:
    counted = await clients.decisions()
    assert sum(counted.values()) == len(ids)
    assert {worker for _, worker in counted} == {"0", "1"}
    for _ in range(4):  # connections to either worker, as the kernel likes
        listed = await clients.get(f"/admin/requests?limit={len(ids)}")
        assert {record["request"] for record in listed["requests"]} == set(ids)
        for name in (next(i for i in ids if worker_of(i) == worker) for worker in (0, 1)):
            assert (await clients.get(f"/admin/explain/{name}"))["request"] == name
    reported = [record for record in listed["requests"] if record["reports"]]
    assert {worker_of(record["request"]) for record in reported} == {0, 1}, "each has the reports of its own requests"


async def one_switch_reaches_all(clients: Clients) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{clients.url}/admin/policy", json={"policy": "least-load"}) as answer,
    ):
        assert answer.status == 200
    before = await clients.decisions()
    await clients.ask_each(0, 1)
    assert {policy for policy, _ in await clients.decisions() - before} == {"least-load"}


async def nothing_outlives(command: Command) -> None:
    children = psutil.Process(command.pid).children(recursive=True)
    assert sum("memserve.serving.workers.process" in " ".join(child.cmdline()) for child in children) == 2  # and guard
    await command.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, 15)
    assert alive == []
    assert command.shared_files() == []
