"""The client's JSON, and the bodies made of it for the prefill and the decode instance.

Owns which fields are whose. Values are kept as the bytes the client sent: apart from kv_transfer_params
the decode instance gets exactly its request. Never validates what vLLM validates; wrong values travel on
and the engine's own answer comes back.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from memserve.gateway.errors import bad_request
from memserve.wire.identity import Namespace, namespace
from memserve.wire.messages import RequestParams

KV_FIELD = "kv_transfer_params"
KV_KEY = "memserve"

# Fields that only shape the output. None of them enters a prompt, so without them the prefill instance
# computes the same KV and produces one token. Whatever may enter a chat template stays.
_OUTPUT_FIELDS = (
    *("stream", "stream_options", "stream_interval", "max_completion_tokens", "min_tokens", "n", "best_of", "echo"),
    *("logprobs", "top_logprobs", "logprob_token_ids", "return_token_ids", "return_prompt_text"),
    *("return_tokens_as_token_ids", "return_token_offsets"),
)
_ONE_TOKEN = msgspec.Raw(b"1")


class ClientRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A body that is a JSON object, read once."""

    values: Mapping[str, Any]
    """Decoded, for looking into."""
    fields: Mapping[str, msgspec.Raw]
    """The same as sent, for sending on."""

    @property
    def model(self) -> str:
        """ "" when none is named."""
        return self._text("model")

    @property
    def session(self) -> str:
        return self._text("session_id")

    def namespace(self, *, adapter: str = "") -> Namespace:
        """Root of the prompt's KV; `adapter` is what the engines call it, "" for the base model."""
        return namespace(salt=self._text("cache_salt"), adapter=adapter)

    def with_text(self, name: str, value: str) -> "ClientRequest":
        """The same with one field set by us."""
        values, fields = dict(self.values), dict(self.fields)
        values[name], fields[name] = value, msgspec.Raw(msgspec.json.encode(value))
        return ClientRequest(values=values, fields=fields)

    def _text(self, name: str) -> str:
        value = self.values.get(name)
        return value if isinstance(value, str) else ""


def parse(body: bytes) -> ClientRequest:
    """Read a body. Raises ApiError 400 on anything but a JSON object without kv_transfer_params."""
    values = _decoded(body, Any)
    if not isinstance(values, dict):
        raise bad_request(f"the request body is a JSON {type(values).__name__}; send an object")
    _check_owner(values)
    return ClientRequest(values=values, fields=_decoded(body, dict[str, msgspec.Raw]))


def check_passing(body: bytes) -> None:
    """For JSON that is sent on unread otherwise. Raises ApiError 400 as `parse` does: who could set the
    transfer parameters could make an instance talk to any address."""
    values = _decoded(body, Any)
    if isinstance(values, dict):
        _check_owner(values)
        extra = values.get("vllm_xargs")
        _check_owner(extra if isinstance(extra, dict) else {})


def must_run_alone(request: ClientRequest) -> bool:
    """Whether one instance has to do all of it: what is asked for cannot be had from handed-over KV.

    Scores of prompt tokens need the prompt's computation, several prompts and beams are several engine
    requests, truncation to what the output leaves depends on max_tokens, and a max_tokens that vLLM
    refuses must reach it as it is.
    """
    values = request.values
    prompt = values.get("prompt")
    scored = values.get("prompt_logprobs") is not None or bool(
        values.get("echo") and (values.get("logprobs") or values.get("top_logprobs") or values.get("max_tokens") == 0)
    )
    several = isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)
    limits = (values.get("max_tokens"), values.get("max_completion_tokens"))
    return (
        scored
        or several
        or bool(values.get("use_beam_search"))
        or values.get("prompt_embeds") is not None
        or values.get("truncate_prompt_tokens") == -1
        or not all(limit is None or (isinstance(limit, int) and limit >= 1) for limit in limits)
    )


def prefill_body(request: ClientRequest, params: RequestParams, *, more: Mapping[str, Any] = {}) -> bytes:
    """The same prompt for one token of output; `more` is asked for as well."""
    fields = {name: value for name, value in request.fields.items() if name not in _OUTPUT_FIELDS}
    return msgspec.json.encode({**fields, "max_tokens": _ONE_TOKEN, **more, KV_FIELD: {KV_KEY: params}})


def decode_body(request: ClientRequest, params: RequestParams, *, more: Mapping[str, Any] = {}) -> bytes:
    """The client's own request."""
    return msgspec.json.encode({**request.fields, **more, KV_FIELD: {KV_KEY: params}})


def _decoded(body: bytes, shape: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"the request body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise bad_request("the request body is nested too deep to be read") from error


def _check_owner(values: Mapping[str, Any]) -> None:
    if values.get(KV_FIELD) is not None:
        raise bad_request(f"`{KV_FIELD}` belongs to the gateway; leave it out", param=KV_FIELD)
