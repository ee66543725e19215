"""Clients that ask one after the other, so many at once: the load of `memserve bench gateway`.

Each request goes on with one of a fixed set of chats, so that whoever routes by prefix has something to find, and
ends with a question that was not asked before, so that nobody finds all of it.
"""

import asyncio
from random import Random
from time import perf_counter_ns
from typing import Any

import aiohttp

from memserve.bench.systems.channel import System, serve

NUM_CHATS = 256
_WORDS = ("lighthouse", "keeper", "counts", "ships", "every", "night", "writes", "number", "blue", "book", "harbour")
_SYSTEM_WORDS, _CHAT_WORDS, _QUESTION_WORDS = 60, 75, 12
_SEED = 7


def chats(*, streaming: bool) -> list[bytes]:
    """Bodies of about 200 tokens: one system prompt, a turn of their own, and a question in which `NEW` is replaced."""
    import msgspec  # noqa: PLC0415 - the channel starts without it

    random = Random(_SEED)  # noqa: S311 - draws words
    system = " ".join(random.choices(_WORDS, k=_SYSTEM_WORDS))
    bodies = []
    for _ in range(NUM_CHATS):
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": " ".join(random.choices(_WORDS, k=_CHAT_WORDS))},
            {"role": "assistant", "content": "a b c d e f g h"},
            {"role": "user", "content": f"NEW {' '.join(random.choices(_WORDS, k=_QUESTION_WORDS))}"},
        ]
        body = {"model": "bench", "messages": messages, "max_tokens": 8, "temperature": 0, "stream": streaming}
        bodies.append(msgspec.json.encode(body))
    return bodies


class Load:
    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Latencies in nanoseconds until the last byte, requests a second, and how many were not answered with 200."""
        return asyncio.run(_run(**request))


async def _run(urls: list[str], concurrency: int, streaming: bool, seconds: float) -> dict[str, Any]:  # noqa: FBT001
    bodies = chats(streaming=streaming)
    times: list[int] = []
    errors = 0
    began = perf_counter_ns()
    run = began // 1000 % 1_000_000
    until = began + int(seconds * 1e9)

    async def client(number: int) -> None:
        nonlocal errors
        at = number
        while perf_counter_ns() < until:
            url = f"{urls[at % len(urls)]}/v1/chat/completions"
            body = bodies[at * 31 % NUM_CHATS].replace(b"NEW", b"%d %d" % (run, at))
            started = perf_counter_ns()
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()
                errors += answer.status != 200
            times.append(perf_counter_ns() - started)
            at += concurrency

    headers = {"content-type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        await asyncio.gather(*(client(number) for number in range(concurrency)))
    elapsed_s = (perf_counter_ns() - began) / 1e9
    return {"times_ns": times, "requests_per_s": len(times) / elapsed_s, "errors": errors}


def _system() -> System:
    return System(version=aiohttp.__version__, handlers={"run": Load().run})


if __name__ == "__main__":
    serve(_system)
