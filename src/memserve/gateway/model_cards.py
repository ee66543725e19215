"""What instances tell of the models that they serve: context length and adapters, asked for at /v1/models.

Owns what was last heard of each instance. An adapter whose name nobody told of yet has an instance asked again, at
most once in 5 s; until it is known, its prompts are routed as if nobody held anything of them.
"""

import logging

import msgspec

from memserve.cluster.view import InstanceView
from memserve.core.clock import Clock
from memserve.core.errors import DeadlineExceeded
from memserve.core.ids import Incarnation, InstanceId
from memserve.gateway.ending import scope
from memserve.gateway.errors import InstanceLost
from memserve.gateway.upstream import Upstream
from memserve.wire.identity import adapter_key

_log = logging.getLogger(__name__)

_DEADLINE_S = 2.0
_ASK_AGAIN_S = 5.0


class ModelCard(msgspec.Struct, frozen=True):
    """One entry of the list, as far as it matters here."""

    id: str = ""
    root: str | None = None
    """Where the weights lie."""
    parent: str | None = None
    """Of an adapter: its base model."""
    max_model_len: int | None = None


class _Cards(msgspec.Struct, frozen=True):
    data: tuple[ModelCard, ...]


class ModelCards:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[tuple[InstanceId, Incarnation], tuple[ModelCard, ...]] = {}
        self._asked_at = float("-inf")

    async def context_length(self, instance: InstanceView, upstream: Upstream) -> int | None:
        """In tokens; None when the instance does not tell, within 2 s."""
        cards = self._known.get((instance.instance, instance.incarnation))
        if cards is None:
            cards = await self._ask(instance, upstream)
        return cards[0].max_model_len if cards else None

    async def adapter(self, name: str, instance: InstanceView | None, upstream: Upstream) -> str:
        """What engines call the adapter of this name in its prompts' namespace."""
        found = self._adapter(name)
        if not found and instance is not None and self._clock.now() - self._asked_at > _ASK_AGAIN_S:
            self._asked_at = self._clock.now()
            await self._ask(instance, upstream)
            found = self._adapter(name)
        return found or name

    def _adapter(self, name: str) -> str:
        """Of what was heard last; "" when nobody told of it."""
        for cards in reversed(self._known.values()):
            for card in cards:
                if card.id == name and card.parent is not None and card.root is not None:
                    return adapter_key(name, card.root)
        return ""

    async def _ask(self, instance: InstanceView, upstream: Upstream) -> tuple[ModelCard, ...] | None:
        try:
            async with (
                scope(deadline_s=_DEADLINE_S),
                upstream.exchange(instance, method="GET", target="/v1/models", headers=[], body=b"") as answer,
            ):
                cards = msgspec.json.decode(await answer.read(), type=_Cards).data
        except (InstanceLost, DeadlineExceeded, msgspec.DecodeError) as error:
            _log.info("instance %s does not tell what it serves: %s", instance.instance, error)
            return None
        others = {member: told for member, told in self._known.items() if member[0] != instance.instance}
        self._known = others | {(instance.instance, instance.incarnation): cards}
        return cards

    def __repr__(self) -> str:
        told = {instance: [card.id for card in cards] for (instance, _), cards in self._known.items()}
        return f"ModelCards({told})"
