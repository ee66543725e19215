"""The engines' server-sent events: cut into whole ones and read as far as continuing an answer needs.

Owns the shape of vLLM 0.32's completion and chat chunks. Never changes a byte.
"""

import msgspec

EVENT_END = b"\n\n"
DATA = b"data: "
_MAX_EVENT_BYTES = 64 << 20
_SERVER_ERROR = 500
_BROKEN_OFF = frozenset({"abort", "error"})


class EventCutter:
    """A byte stream cut at the ends of events, so that one which breaks can still be given a readable end."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """Whole events; b"" while one is incomplete."""
        data = self._rest + chunk if self._rest else chunk
        end = data.rfind(EVENT_END) + len(EVENT_END)
        if end < len(EVENT_END):
            end = len(data) if len(data) > _MAX_EVENT_BYTES else 0
        self._rest = data[end:]
        return data[:end]

    def close(self) -> bytes:
        """What is left when the upstream has ended properly."""
        rest, self._rest = self._rest, b""
        return rest


class Delta(msgspec.Struct, frozen=True):
    """What a chat chunk adds."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    delta: Delta | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class EngineError(msgspec.Struct, frozen=True):
    message: str | None = None
    code: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """That there is one is all that matters."""


class EngineEvent(msgspec.Struct, frozen=True):
    """One event with JSON."""

    id: str = ""
    model: str = ""
    created: int = 0
    choices: list[Choice] = []
    prompt_token_ids: list[int] | None = None
    system_fingerprint: str | None = None
    usage: Usage | None = None
    error: EngineError | None = None

    @property
    def fault(self) -> str:
        """Why the engine gave the request up, which elsewhere may go on; "" when it did not, or refuses it."""
        if self.error is not None and (self.error.code or _SERVER_ERROR) >= _SERVER_ERROR:
            return self.error.message or "an error without a message"
        return next((f"finished with {c.finish_reason}" for c in self.choices if c.finish_reason in _BROKEN_OFF), "")


def read_events(data: bytes) -> list[tuple[bytes, EngineEvent | None]]:
    """Each event of `data` with its end, and what it says: None for comments, [DONE] and what cannot be read."""
    return [(event + EVENT_END, _read(event)) for event in data.split(EVENT_END) if event]


def _read(event: bytes) -> EngineEvent | None:
    if not event.startswith(DATA + b"{"):
        return None
    try:
        return msgspec.json.decode(event[len(DATA) :], type=EngineEvent)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
