"""What is played: two real conversations that begin with the same long system prompt.

Owns the choice and the order of the turns. The first conversation grows turn by turn, so each turn's prompt
contains the one before; the second shares nothing with the first but the system prompt.
"""

from importlib.resources import files
from pathlib import Path

import msgspec

from memserve.bundled.conversations import Rule, choose_conversations

_SECOND_TURNS = 2
"""Enough to see the shared prompt found in the first turn and the conversation's own growth in the second."""


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation to play."""

    conversation: int
    """1-based."""
    name: str
    """Its name in the collection."""
    system: str
    human: tuple[str, ...]


def write_script(collection: Path) -> tuple[Scene, ...]:
    """The scenes of the demo. Raises ConfigError when the collection of conversations cannot be read."""
    system = files("memserve.demo").joinpath("house_rules.md").read_text(encoding="utf-8").strip()
    first, second = choose_conversations(collection, 2, Rule())
    return (
        Scene(conversation=1, name=first.name, system=system, human=first.human),
        Scene(conversation=2, name=second.name, system=system, human=second.human[:_SECOND_TURNS]),
    )
