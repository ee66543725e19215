"""One HTTP request to an ASGI app of this very process, without a socket.

Owns the translation. The answer is collected whole, so it is for routes that do not stream.
"""

from urllib.parse import quote

from starlette.types import ASGIApp, Message, Scope

from memserve.gateway.worker_messages import AppReply, AppRequest


async def answer_of(app: ASGIApp, request: AppRequest) -> AppReply:
    """What the app answers. Raises what the app raises."""
    body = [request.body]
    status, headers, parts = 500, (), []

    async def receive() -> Message:
        return {"type": "http.request", "body": body.pop(), "more_body": False} if body else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], tuple(message.get("headers", ()))
        else:
            parts.append(message.get("body", b""))

    await app(_scope(request), receive, send)
    return AppReply(status=status, headers=headers, body=b"".join(parts))


def _scope(request: AppRequest) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": request.method,
        "path": request.path,
        "raw_path": quote(request.path).encode(),
        "query_string": request.query,
        "root_path": "",
        "headers": list(request.headers),
        "client": None,
        "server": None,
    }
