"""Tokens back to text, one after the other, as the engines do it: with the library and the calls of vLLM 0.32.

Owns a tokenizer of its own. A character whose bytes come in several tokens appears with the last of them.
"""

import logging
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

_log = logging.getLogger(__name__)

_CONTEXT_TOKENS = 64
"""What precedes decides about spaces and unfinished characters, and only its end does."""
_LOST_TRACK = "Invalid prefix encountered"


class Detokenizer:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def knows(self, token: str) -> bool:
        """Whether the vocabulary has it."""
        return self._tokenizer.token_to_id(token) is not None

    def after(self, prompt: Sequence[int]) -> Callable[[int], str]:
        """For the output after this prompt: call it with each token for the text that it adds."""
        stream = DecodeStream(ids=list(prompt[-_CONTEXT_TOKENS:]), skip_special_tokens=True)

        def step(token: int) -> str:
            nonlocal stream
            try:
                return stream.step(self._tokenizer, token) or ""
            except OverflowError:
                return ""
            except Exception as error:
                # The library raises bare Exceptions. Bytes that are no UTF-8 make it lose track; vLLM starts anew, too.
                if not str(error).startswith(_LOST_TRACK):
                    raise
                _log.info("output that is not UTF-8: detokenisation starts anew")
                stream = DecodeStream(skip_special_tokens=True)
                return stream.step(self._tokenizer, token) or ""

        return step

    def __repr__(self) -> str:
        return f"Detokenizer({self._tokenizer.get_vocab_size()} tokens)"
