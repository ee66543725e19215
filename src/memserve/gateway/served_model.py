"""What the gateway must know of the model to continue its answers, and how long a context is.

Owns the answer to "can this request be continued here", and what instances told of their context length.
"""

import logging

import msgspec
from multidict import CIMultiDict

from memserve.cluster.view import InstanceView
from memserve.core.errors import DeadlineExceeded
from memserve.core.ids import Incarnation, InstanceId
from memserve.gateway.continuable import Continuable, continuable
from memserve.gateway.detokenizer import Detokenizer
from memserve.gateway.ending import scope
from memserve.gateway.errors import InstanceLost
from memserve.gateway.request_body import ClientRequest
from memserve.gateway.upstream import Upstream

_log = logging.getLogger(__name__)

_DEADLINE_S = 2.0


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    detokenizer: Detokenizer | None
    """None: its output cannot be turned into text here, so nothing is continued."""
    has_plain_chats: bool = True
    """The engines' chat answers are the text of the tokens; False where they take reasoning or channels out."""
    has_output_bound: bool = False
    """The engines end answers without max_tokens before the context is full."""

    def plan(self, request: ClientRequest, *, path: str) -> Continuable | None:
        """How the request can be continued; None when it cannot."""
        plan = continuable(request, path=path) if self.detokenizer is not None else None
        if plan is None or (plan.is_chat and not self.has_plain_chats):
            return None
        return None if plan.max_tokens is None and self.has_output_bound else plan


class _Card(msgspec.Struct, frozen=True):
    max_model_len: int | None = None


class _Cards(msgspec.Struct, frozen=True):
    data: list[_Card]


class ContextLengths:
    """In tokens, by instance; asked for once."""

    def __init__(self) -> None:
        self._known: dict[tuple[InstanceId, Incarnation], int] = {}

    async def of(self, instance: InstanceView, upstream: Upstream) -> int | None:
        """None when the instance does not tell, within 2 s."""
        member = (instance.instance, instance.incarnation)
        if member not in self._known:
            length = await _ask(instance, upstream)
            if length is None:
                return None
            self._known = {m: n for m, n in self._known.items() if m[0] != instance.instance} | {member: length}
        return self._known[member]

    def __repr__(self) -> str:
        return f"ContextLengths({ {instance: length for (instance, _), length in self._known.items()} })"


async def _ask(instance: InstanceView, upstream: Upstream) -> int | None:
    headers: CIMultiDict[str] = CIMultiDict()
    try:
        async with (
            scope(deadline_s=_DEADLINE_S),
            upstream.exchange(instance, method="GET", target="/v1/models", headers=headers, body=b"") as answer,
        ):
            cards = msgspec.json.decode(await answer.read(), type=_Cards)
    except (InstanceLost, DeadlineExceeded, msgspec.DecodeError) as error:
        _log.info("instance %s does not tell its context length: %s", instance.instance, error)
        return None
    return next((card.max_model_len for card in cards.data if card.max_model_len is not None), None)
