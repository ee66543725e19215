"""One answer of a fake engine: which tokens, how they end, and the JSON in which vLLM 0.32 tells them.

The shapes were taken from a real server. Written without the gateway's own code, which is tested against it.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from tests.fakes.model import CONTEXT_LENGTH, END, detokenizer, next_token, prompt_tokens

FINGERPRINT = "vllm-0.32.0-fake"
CACHED_TOKENS = 8


class Step(msgspec.Struct):
    token: int
    text: str
    """What may be shown with it."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class Generation:
    def __init__(self, request: dict[str, Any], *, num_words: int, is_chat: bool) -> None:
        self.request = request
        self.is_chat = is_chat
        self.num_words = num_words
        self.prompt = self._prompt()
        self.wants_ids = bool(request.get("return_token_ids"))

    def _prompt(self) -> list[int]:
        if self.is_chat:
            return prompt_tokens("".join(f"{m['role']}:{m['content']}\n" for m in self.request["messages"]))
        prompt = self.request["prompt"]
        several = isinstance(prompt, list) and isinstance(prompt[0], str | list)
        return prompt_tokens(prompt[0] if several else prompt)

    def _role(self) -> str:
        is_new = self.request.get("add_generation_prompt", True)
        return "assistant" if is_new or not self.is_chat else self.request["messages"][-1]["role"]

    def _limit(self) -> int:
        room = CONTEXT_LENGTH - len(self.prompt)
        asked = self.request.get("max_tokens") if not self.is_chat else self.request.get(
            "max_completion_tokens", self.request.get("max_tokens")
        )  # fmt: skip
        return asked or (room if self.is_chat else 16)

    def steps(self) -> Iterator[Step]:
        stops = self.request.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        keep = bool(self.request.get("include_stop_str_in_output"))
        held = 0 if keep or not stops else max(map(len, stops)) - 1
        least, limit = self.request.get("min_tokens") or 0, self._limit()
        decode, tokens, text, shown = detokenizer(self.prompt), list(self.prompt), "", 0
        for number in range(1, limit + 1):
            may_end = number > least and not self.request.get("ignore_eos")
            token = next_token(tokens, num_words=self.num_words, may_end=may_end)
            tokens.append(token)
            step = Step(token, "")
            searched = max(0, len(text) - max(map(len, stops), default=1) + 1)
            if token == END or (token in (self.request.get("stop_token_ids") or ()) and number > least):
                step.finish_reason, step.stop_reason = "stop", None if token == END else token
            if step.finish_reason is None or keep:
                text += decode(token)
            hits = [(text.find(s, searched), s) for s in stops if number > least and text.find(s, searched) >= 0]
            if hits:
                at, found = min(hits, key=lambda hit: hit[0] + len(hit[1]))
                text = text[: at + len(found) if keep else at]
                step.finish_reason, step.stop_reason = "stop", found
            elif number == limit and step.finish_reason is None:
                step.finish_reason = "length"
            end = len(text) if step.finish_reason else max(shown, len(text) - held)
            step.text, shown = text[shown:end], max(shown, end)
            yield step
            if step.finish_reason:
                return

    # ------------------------------------------------------------ the JSON

    def whole(self, head: dict[str, Any], steps: list[Step]) -> dict[str, Any]:
        text, last = "".join(s.text for s in steps), steps[-1]
        message = {"role": self._role(), "content": text, "refusal": None, "tool_calls": None, "reasoning": None}
        ids = {"token_ids": [s.token for s in steps] if self.wants_ids else None}
        prompt_ids = {"prompt_token_ids": self.prompt if self.wants_ids else None}
        choice = {
            "index": 0, **({"message": message} if self.is_chat else {"text": text}), "logprobs": None,
            "finish_reason": last.finish_reason, "stop_reason": last.stop_reason, **ids,
            **({} if self.is_chat else prompt_ids),
        }  # fmt: skip
        return {
            **head, "object": "chat.completion" if self.is_chat else "text_completion", "choices": [choice],
            "system_fingerprint": FINGERPRINT,
            "usage": {
                **self._counts(len(steps)),
                "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS, "multimodal_tokens": None},
                "completion_tokens_details": None,
            },
            **(prompt_ids if self.is_chat else {}),
        }  # fmt: skip

    def events(self, head: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """As from a stream with one token in each event."""
        options = self.request.get("stream_options") or {}
        head = head | {"object": "chat.completion.chunk" if self.is_chat else "text_completion"}
        prompt_ids = {"prompt_token_ids": self.prompt if self.wants_ids else None}
        running = bool(options.get("include_usage") and options.get("continuous_usage_stats"))

        def usage(number: int) -> dict[str, Any]:
            details = {"completion_tokens_details": None} if self.is_chat else {}
            return {"usage": {**self._counts(number), **details}} if running else {}

        if self.is_chat:
            delta = {"role": self._role(), "content": ""}
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            yield {**head, "choices": [choice], **usage(0), **prompt_ids, "prompt_text": None}
        number = 0
        for number, step in enumerate(self.steps(), 1):
            choice = {"index": 0, **({"delta": {"content": step.text}} if self.is_chat else {"text": step.text})}
            choice |= {"logprobs": None, "finish_reason": step.finish_reason}
            if step.finish_reason or not self.is_chat:
                choice["stop_reason"] = step.stop_reason
            if not self.is_chat:
                choice |= prompt_ids if number == 1 else {"prompt_token_ids": None}
            choice["token_ids"] = [step.token] if self.wants_ids else None
            stamp = step.finish_reason and not options.get("include_usage")
            yield {
                **head, "choices": [choice], **usage(number),
                **({"system_fingerprint": FINGERPRINT} if stamp else {}),
            }  # fmt: skip
        if options.get("include_usage"):
            created = {"created_cache_tokens": 0} if self.is_chat else {}
            details = {"prompt_tokens_details": {"cached_tokens": CACHED_TOKENS, **created}}
            yield {
                **head, "choices": [], "usage": {**self._counts(number), **details},
                "system_fingerprint": FINGERPRINT,
            }  # fmt: skip

    def _counts(self, number: int) -> dict[str, int]:
        prompt = len(self.prompt)
        return {"prompt_tokens": prompt, "total_tokens": prompt + number, "completion_tokens": number}
