"""Prompts as tokens, for routing only: the engine tokenises again and its tokens are what is computed.

Owns a bounded pool of threads, each using a tokenizer of its own (the Rust tokenizers refuse to be shared
while one of them changes its truncation). A short chat does without: handing it to a thread and back costs more
than rendering it and tokenising the few words that are new of it. Whatever cannot be tokenised, or not in time,
or not while too many wait, is routed without its prefix: that costs cache hits, never a request.

Mirrors what vLLM does to a chat before its template: text parts joined unless the template walks over
parts, tool call arguments as objects, reasoning under one name. Templates sent by clients are never
rendered here: they are programs, and vLLM refuses them too unless told otherwise.
"""

import asyncio
import copy
import logging
import queue
from array import array
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from tokenizers import Tokenizer

from memserve.core.errors import ConfigError
from memserve.gateway.chat_prompt import ChatPrompt, walks_over_parts
from memserve.gateway.detokenizer import Detokenizer
from memserve.gateway.piece_encoder import PieceEncoder, cuts_cleanly

_log = logging.getLogger(__name__)

_DEADLINE_S = 2.0
_MAX_WAITING = 256
# Characters in the event loop: about half a millisecond at most for each of the two.
_MAX_RENDERED_AT_ONCE = 16_384
_MAX_ENCODED_AT_ONCE = 2_048
_MESSAGE_COST = 64
"""Characters that take a template as long as one more message."""
_RENDERED_LONG = frozenset({"tools", "documents", "chat_template_kwargs"})
_PROMPT_FIELDS_WE_CANNOT_FOLLOW = ("chat_template", "truncate_prompt_tokens", "prompt_embeds", "mm_processor_kwargs")


class Tokenization:
    """PromptTokenizer over a Hugging Face tokenizer. Close at the end."""

    def __init__(self, tokenizer: Any, *, num_threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="tokenize")
        self._tokenizers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(num_threads):
            self._tokenizers.put(copy.deepcopy(tokenizer))
        self._part_lists = walks_over_parts(tokenizer)
        self._renderer = copy.deepcopy(tokenizer)
        """Of the event loop, for short chats."""
        backend = getattr(self._renderer, "backend_tokenizer", None)
        self.detokenizer = Detokenizer(copy.deepcopy(backend)) if isinstance(backend, Tokenizer) else None
        """None when the tokenizer is not one of the `tokenizers` library."""
        self._encoder = (
            PieceEncoder(copy.deepcopy(backend)) if isinstance(backend, Tokenizer) and cuts_cleanly(backend) else None
        )
        self._num_waiting = 0

    async def tokens(self, *, path: str, body: Mapping[str, Any]) -> bytes:
        """The prompt as little-endian int32, of several prompts the first; b"" when it cannot be told."""
        if any(body.get(name) is not None for name in _PROMPT_FIELDS_WE_CANNOT_FOLLOW):
            return b""
        prompt = body.get("messages") if path.endswith("/chat/completions") else _first(body.get("prompt"))
        if isinstance(prompt, list) and not path.endswith("/chat/completions"):
            return _packed(prompt)
        if not prompt or self._num_waiting >= _MAX_WAITING:
            return b""
        if self._encoder is not None and _is_short_chat(prompt, body):
            return await self._at_once(prompt, body, self._encoder)
        return await self._in_thread(partial(self._tokenize, prompt, body))

    async def _at_once(self, prompt: list[Any], body: Mapping[str, Any], encoder: PieceEncoder) -> bytes:
        """In the event loop, apart from a long piece that is new."""
        try:
            text = ChatPrompt(prompt, body, part_lists=self._part_lists).text(self._renderer)
            pieces = encoder.cut(text, salt=_salt(body))
            if pieces.num_missing <= _MAX_ENCODED_AT_ONCE:
                return encoder.encode(pieces)
            return await self._in_thread(partial(encoder.encode, pieces))
        except Exception as error:
            return _unfollowed(error)

    def close(self) -> None:
        """Take no more work; does not wait for what is running."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, tokenize: Callable[[], bytes]) -> bytes:
        self._num_waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._pool, tokenize)
        work.add_done_callback(self._done)
        done, _ = await asyncio.wait({work}, timeout=_DEADLINE_S)
        if not done:
            _log.warning("a prompt was not tokenised within %g s; it is routed without its prefix", _DEADLINE_S)
            return b""
        return work.result()

    def _done(self, _: "asyncio.Future[bytes]") -> None:
        self._num_waiting -= 1

    def _tokenize(self, prompt: Any, body: Mapping[str, Any]) -> bytes:
        tokenizer = self._tokenizers.get()
        try:
            if isinstance(prompt, str):
                return self._encoded(tokenizer, prompt, body, specials=body.get("add_special_tokens") is not False)
            # A template has put its special tokens in; vLLM adds others only when asked to.
            text = ChatPrompt(prompt, body, part_lists=self._part_lists).text(tokenizer)
            return self._encoded(tokenizer, text, body, specials=bool(body.get("add_special_tokens")))
        except Exception as error:
            return _unfollowed(error)
        finally:
            self._tokenizers.put(tokenizer)

    def _encoded(self, tokenizer: Any, text: str, body: Mapping[str, Any], *, specials: bool) -> bytes:
        if self._encoder is None or (specials and tokenizer.num_special_tokens_to_add()):
            return _packed(tokenizer(text, add_special_tokens=specials).input_ids)
        return self._encoder.encode(self._encoder.cut(text, salt=_salt(body)))

    def __repr__(self) -> str:
        return f"Tokenization({self._num_waiting} waiting, {self._encoder})"


def load_tokenization(model: str, *, num_threads: int = 2) -> Tokenization:
    """For a folder or name that vLLM takes. Blocks. Raises ConfigError when there is no tokenizer to load."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds; instances start meanwhile

    try:
        return Tokenization(AutoTokenizer.from_pretrained(model), num_threads=num_threads)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no tokenizer can be loaded from {model}: {error}") from error


def _unfollowed(error: Exception) -> bytes:
    """Templates are programs and raise whatever they like, mostly on requests that vLLM refuses as well."""
    _log.info("a prompt cannot be tokenised and is routed without its prefix: %s", error)
    return b""


def _is_short_chat(prompt: Any, body: Mapping[str, Any]) -> bool:
    """Whether the template has little to do: plain text, and not much of it."""
    if not isinstance(prompt, list) or body.get("add_special_tokens") or not _RENDERED_LONG.isdisjoint(body):
        return False
    length = 0
    for message in prompt:
        content = message.get("content") if isinstance(message, dict) and "tool_calls" not in message else None
        if not isinstance(content, str):
            return False
        length += len(content) + _MESSAGE_COST
    return length <= _MAX_RENDERED_AT_ONCE


def _salt(body: Mapping[str, Any]) -> str:
    salt = body.get("cache_salt")
    return salt if isinstance(salt, str) else ""


def _first(prompt: Any) -> Any:
    several = isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list)
    return prompt[0] if several else prompt


def _packed(tokens: Any) -> bytes:
    """int32 bytes, b"" when they are not token ids."""
    try:
        packed = array("i", tokens)
    except (TypeError, OverflowError):
        return b""
    return packed.tobytes()
