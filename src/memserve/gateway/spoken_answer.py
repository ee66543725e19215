"""A Speech on its way to the client: as a stream, piece by piece, or in one at the end.

Owns nothing but the sending. A stream that an engine began is carried on in the same form.

    new -> begun -> (pieces) -> finished
"""

from typing import Any

from memserve.gateway.answer_form import EventForm, whole_answer
from memserve.gateway.client_connection import ClientConnection, RawHeaders
from memserve.gateway.speech import Piece, Speech

_STREAM_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")


class StreamedAnswer:
    """Each piece is sent as it comes."""

    def __init__(self, speech: Speech, form: EventForm, client: ClientConnection, *, headers: RawHeaders) -> None:
        """`headers`: those of an engine's whole answer."""
        self.speech = speech
        self._form = form
        self._client = client
        self._headers = [*(h for h in headers if h[0].lower() != _STREAM_TYPE[0]), _STREAM_TYPE]

    async def say(self, piece: Piece) -> None:
        """`speech` has taken it; the first one opens the stream."""
        event = self._form.piece(piece, self.speech)
        if self._client.status is None:
            await self._client.start(status=200, headers=self._headers)
            event = self._form.opening(self.speech.prompt) + event
        await self._client.send(event)

    def stamp(self, system_fingerprint: str) -> None:
        """The engine's mark, for the end of the stream."""
        self._form.stamp(system_fingerprint)

    async def finish(self) -> None:
        await self._client.end(self._form.closing(self.speech))


class WholeAnswer:
    """Pieces are kept until it is over."""

    def __init__(
        self,
        speech: Speech,
        first: dict[str, Any],
        client: ClientConnection,
        *,
        cached_tokens: int,
        headers: RawHeaders,
    ) -> None:
        self.speech = speech
        self._first = first
        self._client = client
        self._cached_tokens = cached_tokens
        self._headers = headers

    async def say(self, piece: Piece) -> None:
        """Nothing is sent yet."""

    def stamp(self, system_fingerprint: str) -> None:
        """The first instance's is in the answer already."""

    async def finish(self) -> None:
        last = self.speech.last
        if last is None:
            raise RuntimeError(f"{self.speech} is not over")
        body = whole_answer(self._first, self.speech, last, cached_tokens=self._cached_tokens)
        await self._client.send_whole(status=200, body=body, headers=self._headers)


SpokenAnswer = StreamedAnswer | WholeAnswer
