"""What clients say: conversations that share their beginnings, a turn adding to the answer before it."""

from pathlib import Path
from random import Random

import aiohttp
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tests.chaos.load import Turn
from tests.chaos.tokens import answer

_GROUPS = 8
_CONTEXT_TOKENS = 64
_ANSWER = aiohttp.ClientTimeout(total=120)
_WORDS = range(1000, 1256)
_DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"


class Conversations:
    """Of simulated engines, whose answers are computed here without any of what may break."""

    def __init__(self, tokenizer: Tokenizer, *, seed: int) -> None:
        random = Random(f"{seed}/prefixes")
        self._prefixes = [_words(random, random.randint(60, 240)) for _ in range(_GROUPS)]
        self._tokenizer = tokenizer

    def conversation(self, random: Random) -> list[Turn]:
        prompt, turns = list(random.choice(self._prefixes)), []
        for _ in range(random.randint(1, 5)):
            prompt = prompt + _words(random, random.randint(4, 40))
            tokens = answer(prompt, random.randint(3, 32))
            turns.append(Turn(prompt=prompt, tokens=tokens, text=self._text(prompt, tokens)))
            prompt = prompt + tokens
        return turns

    def _text(self, prompt: list[int], tokens: list[int]) -> str:
        stream = DecodeStream(ids=prompt[-_CONTEXT_TOKENS:], skip_special_tokens=True)
        return "".join(stream.step(self._tokenizer, token) or "" for token in tokens)


class AskedBefore:
    """Of real engines: a fixed number of conversations, whose answers are those of a run before the first fault."""

    def __init__(self, tokenizer: Tokenizer, *, seed: int) -> None:
        self._random = Random(f"{seed}/documents")
        self._text: list[int] = tokenizer.encode(_DOCUMENT.read_text()).ids
        self._known: list[list[Turn]] = []

    def conversation(self, random: Random) -> list[Turn]:
        return random.choice(self._known)

    async def ask(self, http: aiohttp.ClientSession, url: str, *, model: str, count: int) -> None:
        """One request after the other; conversations share their beginnings in pairs."""
        for number in range(count):
            prompt, turns = self._text[number // 2 * 400 :][:300], []
            for _ in range(2):
                prompt = prompt + self._excerpt()
                body = {"model": model, "prompt": prompt, "max_tokens": self._random.randint(8, 24)}
                body |= {"temperature": 0, "ignore_eos": True, "return_token_ids": True}
                async with http.post(f"{url}/v1/completions", json=body, timeout=_ANSWER) as answer:
                    (choice,) = (await answer.json())["choices"]
                turns.append(Turn(prompt=prompt, tokens=choice["token_ids"], text=choice["text"]))
                prompt = prompt + choice["token_ids"]
            self._known.append(turns)

    def _excerpt(self) -> list[int]:
        first = self._random.randrange(len(self._text) - 40)
        return self._text[first : first + self._random.randint(10, 40)]


def _words(random: Random, count: int) -> list[int]:
    return random.choices(_WORDS, k=count)
