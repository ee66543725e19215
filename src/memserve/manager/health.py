"""Asks an instance's server whether it can serve. One question, one answer; whoever asks decides when again."""

import aiohttp

_DEADLINE = aiohttp.ClientTimeout(total=5.0)
"""A server in the middle of a long prefill answers late."""


async def is_healthy(http: aiohttp.ClientSession, url: str) -> bool:
    """Whether GET {url}/health gives 200 within 5 s. An instance without a server ("") is healthy when it joins."""
    if not url:
        return True
    try:
        async with http.get(f"{url}/health", timeout=_DEADLINE, allow_redirects=False) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return False
