"""What the gateway must know of the model to continue its answers.

Owns the answer to "can this request be continued here".
"""

import msgspec

from memserve.gateway.continuable import Continuable, continuable
from memserve.gateway.detokenizer import Detokenizer
from memserve.gateway.request_body import ClientRequest


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
