"""The blocks of answers, told from the prompts that go on after them.

A recorded trace names the blocks of prompts only. Where a later prompt of the same session begins with an earlier
one and is long enough to hold its answer, too, it is taken to do so: its blocks up to the end of the answer are
what whoever produced the answer holds afterwards. Owns that one inference.
"""

import msgspec

from memserve.simulator.trace import Trace, TraceRequest


def with_answers(trace: Trace) -> Trace:
    """The same requests, each with `afterwards` where a later one of its session goes on after its answer."""
    following: dict[str, TraceRequest] = {}
    requests: list[TraceRequest] = []
    for request in reversed(trace.requests):
        later = following.get(request.session)
        if later is not None and _goes_on(request, later, trace.block_tokens):
            end = (request.prompt_tokens + request.output_tokens) // trace.block_tokens
            request = msgspec.structs.replace(request, afterwards=later.blocks[:end])  # noqa: PLW2901 - the same one
        requests.append(request)
        following[request.session] = request
    return msgspec.structs.replace(trace, requests=tuple(reversed(requests)))


def _goes_on(request: TraceRequest, later: TraceRequest, block_tokens: int) -> bool:
    whole = request.prompt_tokens // block_tokens
    has_room = later.prompt_tokens >= request.prompt_tokens + request.output_tokens
    return has_room and later.blocks[:whole] == request.blocks[:whole]
