"""The model inside a fake engine: a real tokenizer, and an answer that depends on how much of it is given already.

Owns the vocabulary and the script. A prompt ends with REPLY; the tokens after it are output, whoever produced
them, so an engine that is asked to go on says what one engine alone would have said.
"""

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import DecodeStream
from transformers.convert_slow_tokenizer import bytes_to_unicode

# Characters of two and four bytes are cut in the middle.
PIECES = (b"Paged", b" memory", b" moves", b' "usage":', b" \xc3", b"\xa9\xf0\x9f", b"\x98\x80", b" done")
TEXT = b"".join(PIECES).decode()
_BYTES = bytes_to_unicode()
_SPELLED = ["".join(_BYTES[b] for b in piece) for piece in PIECES]
_VOCABULARY = {spelling: number for number, spelling in enumerate([*sorted(_BYTES.values()), *_SPELLED])}
SCRIPT = tuple(_VOCABULARY[spelling] for spelling in _SPELLED)
CONTEXT_LENGTH = 100_000


def make_tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE(vocab=_VOCABULARY, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<reply>", "<end>"])
    return made


TOKENIZER = make_tokenizer()
REPLY = TOKENIZER.token_to_id("<reply>")
END = TOKENIZER.token_to_id("<end>")


def prompt_tokens(prompt: str | Sequence[int]) -> list[int]:
    """As a template would make them: whatever has no REPLY gets one at its end."""
    tokens = TOKENIZER.encode(prompt).ids if isinstance(prompt, str) else list(prompt)
    return tokens if REPLY in tokens else [*tokens, REPLY]


def next_token(tokens: Sequence[int], *, num_words: int, may_end: bool) -> int:
    """What follows these tokens: the script again and again, END after `num_words` of it."""
    given = len(tokens) - 1 - max(i for i, token in enumerate(tokens) if token == REPLY)
    return END if may_end and given >= num_words else SCRIPT[given % len(SCRIPT)]


def detokenizer(prompt: Sequence[int]) -> Callable[[int], str]:
    stream = DecodeStream(ids=list(prompt), skip_special_tokens=True)
    return lambda token: stream.step(TOKENIZER, token) or ""
