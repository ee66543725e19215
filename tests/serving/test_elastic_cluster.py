"""The cluster changed from another shell while requests go on: real processes, pools and HTTP, engines that fake."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.serving.processes import Command, memserve

BODY = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Hello!"}]}


class Traffic:
    """Requests without a pause; every answer is kept."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[tuple[int, Any]] = []
        self._going = True

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            while self._going:
                async with session.post(f"{self.url}/v1/chat/completions", json=BODY) as answer:
                    body = await answer.json()
                    self.answers.append((answer.status, body.get("choices")))
                await asyncio.sleep(0.05)  # leaves the machine to the commands

    async def more(self, count: int) -> None:
        """Until so many more have been answered."""
        enough = len(self.answers) + count
        async with asyncio.timeout(60):
            while len(self.answers) < enough:  # noqa: ASYNC110 - another process answers
                await asyncio.sleep(0.05)

    def end(self) -> None:
        self._going = False

    def check(self) -> None:
        """All were served, and with the same tokens."""
        assert len(self.answers) > 3
        assert all(answer == self.answers[0] and answer[0] == 200 for answer in self.answers)


@asynccontextmanager
async def traffic(url: str) -> AsyncIterator[Traffic]:
    """The block's requests must all have been served the same way."""
    requests = Traffic(url)
    task = asyncio.create_task(requests.run())
    try:
        yield requests
    finally:
        requests.end()
        await task
    requests.check()


async def run(*arguments: str, url: str, status: int = 0) -> list[str]:
    """A command from another shell, and its lines."""
    async with memserve(*arguments, "--url", url) as command:
        found = await command.status(within_s=60)
    assert found == status, command.lines
    return command.lines


async def members(url: str) -> dict[str, tuple[str, str]]:
    """Role and state by name."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/admin/cluster") as answer:
        instances = (await answer.json())["view"]["instances"]
    return {i["peer"]["instance"]: (i["role"], i["state"]) for i in instances}


async def until_members(url: str, expected: dict[str, tuple[str, str]]) -> None:
    async with asyncio.timeout(40):
        while await members(url) != expected:  # noqa: ASYNC110 - asked over HTTP
            await asyncio.sleep(0.1)


def process_of(command: Command, instance: str) -> int:
    """The engine that runs as this instance of the command's cluster."""
    children = psutil.Process(command.pid).children(recursive=True)
    lines = {child.pid: child.cmdline() for child in children}
    told = f'"instance":"{instance}"'
    return next(pid for pid, line in lines.items() if "guard" not in " ".join(line[:3]) and told in " ".join(line))


async def test_it_grows_shrinks_and_changes_roles_under_traffic_without_a_failed_request() -> None:
    async with memserve("serve", "--port", "0") as command:
        url = await command.url()
        async with traffic(url):
            grown = await run("scale", "decode=2", url=url)
            assert grown[-1].startswith("start decode-1: done, serves on http://127.0.0.1:")
            drained = await run("drain", "decode-0", url=url)
            assert drained[0] == "drain decode-0: takes no new requests"
            assert drained[-1].startswith("drain decode-0: done, it is stopped; handed on to decode-1: 0 of 0 prompts")
            assert await run("scale", "prefill=2", "decode=1", url=url)
            flipped = await run("role", "prefill-0", "decode", url=url)
            assert flipped == ["role prefill-0: done, was prefill, is decode; its cache stays"]
            assert await run("scale", "decode=1", url=url)
        serving = await members(url)
        assert serving["prefill-1"] == ("prefill", "active")
        assert [role for role, _ in serving.values()].count("decode") == 1
        command.send(signal.SIGTERM)
        assert await command.status(within_s=10) == 0
    assert command.shared_files() == []


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("drain", {"instance": "decode-0"}, "decode-0 is the last active decode instance"),
    ("drain", {"instance": "nobody"}, 'there is no instance "nobody": known are decode-0, prefill-0'),
    ("role", {"instance": "decode-0", "role": "prefill"}, "decode-0 is the last active decode instance"),
    ("role", {"instance": "decode-0", "role": "memory"}, "decode-0 cannot become memory: its engine can play prefill"),
    ("scale", {"decode": -1}, "decode=-1: the number of instances is from 0 to 256"),
    ("scale", {"decode": 10**6}, "decode=1000000: the number of instances is from 0 to 256"),
    ("scale", {"decode": 250}, "249 instances with a pool of 1024MiB each need"),
    ("scale", {"decode": 0}, "decode=0 would leave no decode instance"),
    ("scale", {"memory": 1}, "run `memserve pool`"),
]


async def test_what_cannot_be_is_refused_with_the_reason_and_changes_nothing() -> None:
    async with memserve("serve", "--port", "0") as command, aiohttp.ClientSession() as session:
        url = await command.url()
        before = await members(url)
        for what, asked, reason in REFUSALS:
            async with session.post(f"{url}/admin/{what}", json=asked) as answer:
                assert answer.status == 409
                assert reason in (await answer.json())["error"]["message"]
        assert await members(url) == before
        (line,) = await run("drain", "decode-0", url=url, status=2)
        assert line.startswith("memserve: decode-0 is the last active decode instance")


async def test_a_killed_instance_comes_back_by_itself_and_its_end_is_told_there_and_by_status() -> None:
    async with memserve("serve", "--port", "0", "--max-restarts", "1") as command:
        url = await command.url()
        os.kill(process_of(command, "decode-0"), signal.SIGKILL)
        told = await command.line_with("decode-0 ended: ended by SIGKILL")
        assert "starting it again in 1 s (restart 1 in a row)" in told
        await command.line_with("decode-0 is ready: ")
        async with traffic(url):
            await asyncio.sleep(0.5)
        os.kill(process_of(command, "decode-0"), signal.SIGKILL)
        assert "it is given up" in await command.line_with("decode-0 ended: ended by SIGKILL")
        await until_members(url, {"prefill-0": ("prefill", "active")})
        (missing,) = [line for line in await run("status", url=url) if line.startswith("missing: ")]
        assert missing.startswith("missing: decode-0 ended: ended by SIGKILL")
        assert missing.endswith("; it is not started again")


AUTOSCALED = """
[cluster]
colocated = 1
[autoscaler]
mode = "on"
bounds = { colocated = [2, 3] }
every_s = 0.3
"""


async def test_an_autoscaler_starts_what_is_lacking_and_status_tells_why(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    await asyncio.to_thread(file.write_text, AUTOSCALED)
    async with memserve("serve", "--port", "0", "--config", str(file)) as command:
        url = await command.url()
        await command.line_with("colocated-1 is ready: ")
        text = "\n".join(await run("status", url=url))
    assert "autoscaler on" in text
    assert "colocated 2, right from 2 to 2: no requests lately" in text
    assert "made: colocated 1 -> 2: no requests lately" in text
