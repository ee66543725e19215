"""What a client was told by an engine's stream, to have another engine tell it again and go on from there.

Owns a digest of each event. For streams that cannot be continued from their tokens but come out the same every
time: greedy or seeded ones with tool calls, reasoning, log-probabilities, penalties, grammars, several choices.
What was told already is compared and not sent again; an engine that says something else is not listened to.

    telling -> (lost) rewound -> comparing -> telling
"""

import hashlib
import re
from typing import Any

import msgspec

from memserve.gateway.engine_events import DATA, read_events

# Differ from run to run, or by rounding, and change nothing of what was said.
_NOT_COMPARED = frozenset({"id", "created", "usage", "logprobs", "prompt_logprobs", "system_fingerprint"})
_CREATED = re.compile(rb'"created":[0-9]+')
_DIGEST_BYTES = 8


class Replay:
    """Of one stream."""

    def __init__(self) -> None:
        self._told: list[bytes] = []
        self._at = 0
        self._created: bytes | None = None
        self.fault = ""
        """Why the engine gave up inside its stream; what it sent from there on is dropped."""
        self.has_diverged = False
        """This engine said something else than the one before it."""

    def rewind(self) -> None:
        """The next stream starts from the beginning."""
        self._at = 0
        self.fault = ""

    def pass_on(self, data: bytes) -> bytes:
        """Whole events; gives those that the client has not got yet."""
        passed = []
        for raw, event in read_events(data):
            is_new = self._at >= len(self._told)
            if event is None:
                passed += [raw] if is_new else []
                continue
            if event.fault:
                self.fault = event.fault
                break
            told = _digest(raw)
            if is_new:
                self._told.append(told)
                passed.append(self._dated(raw))
            elif told != self._told[self._at]:
                self.has_diverged = True
                break
            self._at += 1
        return b"".join(passed)

    def _dated(self, raw: bytes) -> bytes:
        """With the time of the first event, which all of a stream share."""
        found = _CREATED.search(raw)
        if self._created is None:
            self._created = found[0] if found else b""
        return _CREATED.sub(self._created, raw, count=1) if found and self._created else raw

    def __repr__(self) -> str:
        return f"Replay({self._at}/{len(self._told)} events, fault={self.fault!r})"


def _digest(raw: bytes) -> bytes:
    said = msgspec.json.encode(_comparable(msgspec.json.decode(raw[len(DATA) :])))
    return hashlib.blake2b(said, digest_size=_DIGEST_BYTES).digest()


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _comparable(part) for name, part in value.items() if name not in _NOT_COMPARED}
    return [_comparable(part) for part in value] if isinstance(value, list) else value
