"""Text to tokens, piece by piece: what was tokenised once, a system prompt or the turns before, is looked up.

Special tokens cut a text into pieces that do not know of each other, so the tokens of a text are those of its
pieces. That holds for tokenizers that treat every place in a text alike (`cuts_cleanly`), as those of Llama 3 and
Qwen do.

Owns the pieces that it remembers, the latest used up to a bound, apart for each salt: how long a request takes must
not tell one tenant what another one has sent. Used by several threads.
"""

import re
import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import msgspec
from tokenizers import Tokenizer

_MAX_BYTES = 64 << 20
_LARGEST_PART = 1 / 8
"""Of the bound: a larger piece is not remembered."""
_KNOW_NO_POSITION = frozenset(
    {
        *("ByteLevel", "Digits", "Punctuation", "Split", "Whitespace", "WhitespaceSplit"),
        *("Lowercase", "NFC", "NFD", "NFKC", "NFKD"),
    }
)

Key = tuple[str, str]


class Pieces(msgspec.Struct, frozen=True, kw_only=True):
    """A text that has been cut; tokens as little-endian int32."""

    salt: str
    texts: tuple[str, ...]
    """Between the special tokens."""
    specials: tuple[bytes, ...]
    """The special token after each of the texts but the last."""
    known: Mapping[str, bytes]

    @property
    def num_missing(self) -> int:
        """Characters that are still to be tokenised."""
        return sum(len(text) for text in self.texts if text not in self.known)


class PieceEncoder:
    def __init__(self, tokenizer: Tokenizer, *, max_bytes: int = _MAX_BYTES) -> None:
        """`tokenizer` is used here alone and cuts cleanly; `max_bytes` bounds texts and tokens that are remembered."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._specials = {token.content: array("i", [number]).tobytes() for number, token in added.items()}
        longest_first = sorted(self._specials, key=len, reverse=True)
        self._border = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if longest_first else None
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._known: OrderedDict[Key, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def cut(self, text: str, *, salt: str = "") -> Pieces:
        """In pieces, with what is remembered of them."""
        parts = self._border.split(text) if self._border is not None else [text]
        texts = tuple(parts[::2])
        known = {"": b""}
        with self._lock:
            for piece in texts:
                tokens = self._known.get((salt, piece))
                if tokens is not None:
                    known[piece] = tokens
                    self._known.move_to_end((salt, piece))
        specials = tuple(self._specials[special] for special in parts[1::2])
        return Pieces(salt=salt, texts=texts, specials=specials, known=known)

    def encode(self, pieces: Pieces) -> bytes:
        """All its tokens; what was missing is remembered."""
        missing = [text for text in dict.fromkeys(pieces.texts) if text not in pieces.known]
        found = dict(pieces.known)
        if missing:
            # One by one: a batch, even of one text, is handed to other threads.
            new = {text: self._encoded(text) for text in missing}
            found |= new
            with self._lock:
                for text, tokens in new.items():
                    self._remember((pieces.salt, text), tokens)
        after = zip_longest(pieces.texts, pieces.specials, fillvalue=b"")
        return b"".join(part for text, special in after for part in (found[str(text)], special))

    def _encoded(self, text: str) -> bytes:
        return array("i", self._tokenizer.encode(text, add_special_tokens=False).ids).tobytes()

    def _remember(self, key: Key, tokens: bytes) -> None:
        size = _size(key, tokens)
        if size > self._max_bytes * _LARGEST_PART or key in self._known:
            return
        self._known[key] = tokens
        self._num_bytes += size
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= _size(*self._known.popitem(last=False))

    def __repr__(self) -> str:
        return f"PieceEncoder({len(self._known)} pieces, {self._num_bytes}/{self._max_bytes} bytes)"


def cuts_cleanly(tokenizer: Tokenizer) -> bool:
    """Whether the tokens of a text are those of its pieces between special tokens, one after the other."""
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip or token.single_word or token.normalized for token in added):
        return False
    steps = [step for step in (tokenizer.normalizer, tokenizer.pre_tokenizer) if step is not None]
    return tokenizer.pre_tokenizer is not None and all(
        _knows_no_position(msgspec.json.decode(step.__getstate__())) for step in steps
    )


def _knows_no_position(step: Mapping[str, Any]) -> bool:
    """Whether a normaliser or pre-tokenizer treats the start of a text as any other place."""
    if step["type"] == "Sequence":
        return all(_knows_no_position(inner) for inner in step.get("pretokenizers", step.get("normalizers")))
    return step["type"] in _KNOW_NO_POSITION and not step.get("add_prefix_space", False)


def _size(key: Key, tokens: bytes) -> int:
    return len(key[0]) + len(key[1]) + len(tokens)
