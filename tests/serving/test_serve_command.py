"""`memserve serve` as a person uses it: real processes, pools and HTTP; only the model is not there."""

import asyncio
import signal

import aiohttp

from tests.serving.processes import memserve

STOP_S = 10.0


async def ask(url: str) -> int:
    """Status of one small request."""
    body = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Hello!"}]}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=body) as answer:
        return answer.status


async def shell(line: str) -> bytes:
    process = await asyncio.create_subprocess_shell(line, stdout=asyncio.subprocess.PIPE)
    return (await process.communicate())[0]


async def test_it_tells_what_is_ready_and_how_to_use_it_and_stops_on_sigterm_leaving_nothing() -> None:
    async with memserve("serve", "--port", "0") as command:
        url = await command.url()
        ready = [line for line in command.lines if "is ready: http://127.0.0.1:" in line]
        assert {line.split()[0] for line in ready} == {"prefill-0", "decode-0"}
        curl = await command.line_with("curl ")
        assert b"chat.completion" in await shell(f"{curl} -sS")
        assert len(command.shared_files()) == 2
        async with memserve("status", "--url", url) as status:
            assert await status.status(within_s=20) == 0
        command.send(signal.SIGTERM)
        assert await command.status(within_s=STOP_S) == 0
    rows = [line.split()[:3] for line in status.lines if "-0 " in line and "http:" in line]
    assert rows == [["decode-0", "decode", "active"], ["prefill-0", "prefill", "active"]]
    assert command.shared_files() == []
    assert command.lines[-1] == "stopped"


async def test_ctrl_c_does_not_wait_for_requests_that_never_end() -> None:
    async with memserve("serve", "--port", "0", trouble="stall") as command:
        asked = asyncio.create_task(ask(await command.url()))
        await asyncio.wait({asked}, timeout=0.5)
        command.send(signal.SIGINT)
        assert await command.status(within_s=STOP_S) == 0
        await asyncio.wait({asked}, timeout=5)
    assert asked.done()
    assert asked.exception() is not None or asked.result() == 503
    assert command.shared_files() == []


async def test_a_second_ctrl_c_ends_at_once_with_130_and_leaves_nothing_either() -> None:
    async with memserve("serve", "--colocated", "1", "--port", "0", trouble="stubborn") as command:
        await command.url()
        command.send(signal.SIGINT)
        await command.line_with("stopping")
        command.send(signal.SIGINT)
        assert await command.status(within_s=2) == 130
        async with asyncio.timeout(STOP_S):
            while command.shared_files():  # noqa: ASYNC110 - the guard that removes them tells nobody
                await asyncio.sleep(0.05)


async def test_an_instance_that_dies_while_starting_is_told_with_the_reason_from_its_log() -> None:
    async with memserve("serve", "--port", "0", trouble="die-decode-0") as command:
        assert await command.status(within_s=40) == 2
    assert "decode-0 ended: ValueError: No available memory for the cache blocks." in command.lines[-1]
    assert "Traceback" not in command.text
    assert command.shared_files() == []


async def test_ctrl_c_while_starting_stops_everything() -> None:
    async with memserve("serve", "--port", "0") as command:
        await command.line_with("starting decode-0")
        command.send(signal.SIGINT)
        assert await command.status(within_s=STOP_S) == 0
    assert command.shared_files() == []
