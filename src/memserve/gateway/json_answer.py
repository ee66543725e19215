"""An answer in JSON of whatever msgspec encodes. Owns how a sequence that is made when somebody asks is written."""

from collections.abc import Sequence

import msgspec
from starlette.responses import Response


class JsonAnswer(Response):
    """`JsonAnswer(content, status_code=...)`."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return encoded(content)


def encoded(content: object) -> bytes:
    """Raises TypeError for what has no form in JSON."""
    return msgspec.json.encode(content, enc_hook=_as_list)


def _as_list(content: object) -> object:
    """A decision's candidates, which are made when somebody asks."""
    if isinstance(content, Sequence):
        return list(content)
    raise TypeError(f"{type(content).__name__} has no form in JSON")
