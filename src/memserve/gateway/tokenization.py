"""Prompts as tokens, for routing only: the engine tokenises again and its tokens are what is computed.

Owns a bounded pool of threads, each using a tokenizer of its own (the Rust tokenizers refuse to be shared
while one of them changes its truncation). Whatever cannot be tokenised, or not in time, or not while too
many wait, is routed without its prefix: that costs cache hits, never a request.

Mirrors what vLLM does to a chat before its template: text parts joined unless the template walks over
parts, tool call arguments as objects, reasoning under one name. Templates sent by clients are never
rendered here: they are programs, and vLLM refuses them too unless told otherwise.
"""

import asyncio
import copy
import logging
import queue
from array import array
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tokenizers import Tokenizer

from memserve.core.errors import ConfigError
from memserve.gateway.chat_prompt import ChatPrompt, walks_over_parts
from memserve.gateway.detokenizer import Detokenizer

_log = logging.getLogger(__name__)

_DEADLINE_S = 2.0
_MAX_WAITING = 256
_PROMPT_FIELDS_WE_CANNOT_FOLLOW = ("chat_template", "truncate_prompt_tokens", "prompt_embeds", "mm_processor_kwargs")


class Tokenization:
    """PromptTokenizer over a Hugging Face tokenizer. Close at the end."""

    def __init__(self, tokenizer: Any, *, num_threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="tokenize")
        self._tokenizers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(num_threads):
            self._tokenizers.put(copy.deepcopy(tokenizer))
        self._part_lists = walks_over_parts(tokenizer)
        backend = getattr(copy.deepcopy(tokenizer), "backend_tokenizer", None)
        self.detokenizer = Detokenizer(backend) if isinstance(backend, Tokenizer) else None
        """None when the tokenizer is not one of the `tokenizers` library."""
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
        return await self._in_thread(prompt, body)

    def close(self) -> None:
        """Take no more work; does not wait for what is running."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, prompt: Any, body: Mapping[str, Any]) -> bytes:
        self._num_waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._pool, self._tokenize, prompt, body)
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
                return _packed(
                    tokenizer(prompt, add_special_tokens=body.get("add_special_tokens") is not False).input_ids
                )
            return _packed(ChatPrompt(prompt, body, part_lists=self._part_lists).tokens(tokenizer))
        except Exception as error:
            # Templates are programs and raise whatever they like, mostly on requests that vLLM refuses as well.
            _log.info("a prompt cannot be tokenised and is routed without its prefix: %s", error)
            return b""
        finally:
            self._tokenizers.put(tokenizer)

    def __repr__(self) -> str:
        return f"Tokenization({self._num_waiting} waiting)"


def load_tokenization(model: str, *, num_threads: int = 2) -> Tokenization:
    """For a folder or name that vLLM takes. Blocks. Raises ConfigError when there is no tokenizer to load."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds; instances start meanwhile

    try:
        return Tokenization(AutoTokenizer.from_pretrained(model), num_threads=num_threads)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no tokenizer can be loaded from {model}: {error}") from error


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
