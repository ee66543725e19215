"""Instances that join from another shell: they come and go under traffic, and outlive their gateway."""

import asyncio
import signal

from memserve.serving.prepare import free_ports
from tests.serving.processes import memserve
from tests.serving.test_elastic_cluster import members, run, traffic, until_members


def free_port() -> int:
    return free_ports(1)[0]


async def refusal(*arguments: str) -> str:
    """The one line of an instance that cannot join."""
    async with memserve("instance", *arguments) as command:
        assert await command.status(within_s=40) in (1, 2)
    assert "Traceback" not in command.text
    return command.lines[-1]


async def test_one_joins_under_traffic_takes_over_from_another_and_is_drained_itself() -> None:
    async with memserve("serve", "--port", "0") as serve:
        url = await serve.url()
        async with traffic(url), memserve("instance", "--role", "decode", "--join", url, "--name", "extra") as extra:
            await extra.line_with("extra is ready: ")
            await run("drain", "decode-0", url=url)
            assert await members(url) == {"prefill-0": ("prefill", "active"), "extra": ("decode", "active")}
            assert "extra is in the cluster already (active): choose another --name" in await refusal(
                "--role", "decode", "--join", url, "--name", "extra"
            )
            await run("scale", "decode=2", url=url)
            drained = await run("drain", "extra", url=url)
            assert drained[-1].startswith("drain extra: done, it has left; handed on to decode-0")
            assert await extra.status(within_s=15) == 0
        assert extra.lines[-1] == "extra is drained and stopped"


async def test_one_that_cannot_find_the_cluster_or_is_of_another_model_says_so() -> None:
    line = await refusal("--role", "decode", "--join", f"http://127.0.0.1:{free_port()}")
    assert "give --join the URL that `memserve serve` prints" in line
    assert "no answer" in await refusal("--role", "decode", "--join", f"tcp://127.0.0.1:{free_port()}")


async def test_instances_outlive_their_gateway_and_join_the_next_one_at_its_address() -> None:
    manager, port = f"127.0.0.1:{free_port()}", str(free_port())
    alone = ("serve", "--prefill", "0", "--decode", "0", "--name", f"outlive{port}", "--manager", manager)
    both = {"p": ("prefill", "active"), "d": ("decode", "active")}
    async with memserve(*alone, "--port", port) as first:
        join = (await first.line_with("waiting for instances: ")).partition("--join ")[2]
        assert join == f"tcp://{manager}"
        async with (
            memserve("instance", "--role", "prefill", "--name", "p", "--join", join) as prefill,
            memserve("instance", "--role", "decode", "--name", "d", "--join", join) as decode,
        ):
            url = await first.url()
            await until_members(url, both)
            async with traffic(url):
                await asyncio.sleep(0.5)
            await first.kill()
            async with memserve(*alone, "--port", port) as second:
                assert await second.url() == url
                await until_members(url, both)
                async with traffic(url):
                    await asyncio.sleep(0.5)
            for command in (prefill, decode):
                command.send(signal.SIGINT)
                assert await command.status(within_s=15) == 0
