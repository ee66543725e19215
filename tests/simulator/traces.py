"""Made-up traces for the simulator's tests, and where recorded ones lie if this machine has them."""

import os
from collections.abc import Sequence
from pathlib import Path

from memserve.simulator.trace import BLOCK_TOKENS, Trace, TraceRequest, name_sessions

MOONCAKE = Path(os.environ.get("MEMSERVE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "mooncake"


def trace_of(prompts: Sequence[Sequence[int]], *, every_s: float = 1.0, output_tokens: int = 8) -> Trace:
    """One request per prompt, each of whole blocks."""
    sessions = name_sessions(prompts)
    requests = tuple(
        TraceRequest(
            at_s=number * every_s,
            prompt_tokens=len(blocks) * BLOCK_TOKENS,
            output_tokens=output_tokens,
            blocks=tuple(blocks),
            session=session,
        )
        for number, (blocks, session) in enumerate(zip(prompts, sessions, strict=True))
    )
    return Trace(name="made-up", requests=requests)


def conversations(count: int, turns: int, *, growth: int = 3) -> list[tuple[int, ...]]:
    """Turn by turn, all conversations one after the other; a shared first block, then blocks of their own."""
    return [
        (0, *(1 + conversation * 1000 + block for block in range((turn + 1) * growth)))
        for turn in range(turns)
        for conversation in range(count)
    ]
