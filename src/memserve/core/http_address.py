"""How the address of an HTTP server is written."""

from typing import Literal

Scheme = Literal["http", "https"]


def base_url(host: str, port: int, *, scheme: Scheme) -> str:
    """Without a slash at the end; an IPv6 address is put in brackets."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
