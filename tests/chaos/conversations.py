"""What clients say: conversations that share their beginnings, a turn adding to the answer before it."""

from random import Random

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tests.chaos.load import Turn
from tests.chaos.tokens import answer

_GROUPS = 8
_CONTEXT_TOKENS = 64
WORDS = range(1000, 1256)


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
            tokens = answer(prompt, random.randint(3, 20))
            turns.append(Turn(prompt=prompt, tokens=tokens, text=self._text(prompt, tokens)))
            prompt = prompt + tokens
        return turns

    def _text(self, prompt: list[int], tokens: list[int]) -> str:
        stream = DecodeStream(ids=prompt[-_CONTEXT_TOKENS:], skip_special_tokens=True)
        return "".join(stream.step(self._tokenizer, token) or "" for token in tokens)


def _words(random: Random, count: int) -> list[int]:
    return random.choices(WORDS, k=count)
