"""Requests of a recorded workload: when they came, how long they are, which blocks of their prompts are alike.

Owns the reading of two public forms: Mooncake's JSON lines (with the hashes of prefix blocks of 512 tokens)
and Azure's CSV (lengths only, so no two prompts share anything). Never keeps the text of a prompt: there is none.
"""

import csv
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from memserve.core.errors import ConfigError

BLOCK_TOKENS = 512
"""Of one hash in a Mooncake trace, and of a block where a trace does not say otherwise."""

_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class TraceRequest(msgspec.Struct, frozen=True, kw_only=True):
    at_s: float
    """After the first request of the trace."""
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    """Names of the prompt's blocks, the last one partial; a name stands for all that comes before it, too."""
    session: str
    """Requests of one conversation have the same; see `name_sessions`."""
    afterwards: tuple[int, ...] = ()
    """Names of the whole blocks of prompt and answer together, as far as a later prompt tells them; see answers.py."""
    after: int | None = None
    """Place in the trace of the request whose answer it goes on from."""
    think_s: float = 0.0
    """It comes so long after that answer is complete, though never before `at_s`."""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    requests: tuple[TraceRequest, ...]
    """By time."""
    block_tokens: int = BLOCK_TOKENS

    @property
    def num_blocks(self) -> int:
        return sum(len(request.blocks) for request in self.requests)

    @property
    def num_distinct_blocks(self) -> int:
        return len({block for request in self.requests for block in request.blocks})


class _MooncakeLine(msgspec.Struct, frozen=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]


def load_trace(file: Path, *, max_requests: int | None = None) -> Trace:
    """Read `file` (.jsonl or .csv), its first `max_requests` if given.

    Raises ConfigError, with the line, for a file that is missing, empty, cut off or of another form.
    """
    readers = {".jsonl": _mooncake, ".csv": _azure}
    reader = readers.get(file.suffix)
    if reader is None:
        raise ConfigError(f"{file} is no trace: give a .jsonl file of Mooncake's form or a .csv file of Azure's")
    lines: list[_MooncakeLine] = []
    try:
        with file.open(encoding="utf-8", newline="") as text:
            for line in reader(text, file):
                lines.append(line)
                if len(lines) == max_requests:
                    break
    except OSError as error:
        raise ConfigError(f"cannot read the trace {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the trace {file} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not lines:
        raise ConfigError(f"the trace {file} holds no requests")
    lines.sort(key=lambda line: line.timestamp)
    return Trace(name=file.stem, requests=_requests(lines))


def ideal_hit_ratio(trace: Trace) -> float:
    """Share of all prompt blocks that an endless cache, shared by everyone, would already hold.

    It holds answers, too, where the trace names their blocks.
    """
    seen: set[int] = set()
    num_hits = 0
    for request in trace.requests:
        num_hits += num_leading(request.blocks, seen)
        seen.update(request.blocks)
        seen.update(request.afterwards)
    return num_hits / trace.num_blocks


def num_leading(blocks: Sequence[int], held: set[int]) -> int:
    """How many of the first blocks are held without a gap."""
    return next((i for i, block in enumerate(blocks) if block not in held), len(blocks))


def name_sessions(prompts: Sequence[Sequence[int]]) -> list[str]:
    """Conversations, told from the blocks: a prompt goes on where an earlier one ended.

    It continues an earlier prompt when it holds the last whole block which that one was the first to bring
    (the partial block after it was filled up since). Otherwise it starts a session of its own, even if it
    shares a system prompt.
    """
    ends: dict[int, str] = {}
    seen: set[int] = set()
    sessions: list[str] = []
    for number, blocks in enumerate(prompts):
        session = next((ends[block] for block in reversed(blocks) if block in ends), str(number))
        sessions.append(session)
        if len(blocks) > 1 and blocks[-2] not in seen:
            ends[blocks[-2]] = session
        seen.update(blocks)
    return sessions


def _requests(lines: Sequence[_MooncakeLine]) -> tuple[TraceRequest, ...]:
    sessions = name_sessions([line.hash_ids for line in lines])
    first = lines[0].timestamp
    return tuple(
        TraceRequest(
            at_s=(line.timestamp - first) / 1e3,
            prompt_tokens=line.input_length,
            output_tokens=line.output_length,
            blocks=line.hash_ids,
            session=session,
        )
        for line, session in zip(lines, sessions, strict=True)
    )


def _mooncake(text: Iterator[str], file: Path) -> Iterator[_MooncakeLine]:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            parsed = msgspec.json.decode(line, type=_MooncakeLine)
        except msgspec.DecodeError as error:
            raise ConfigError(f"line {number} of {file} is not a request of Mooncake's form: {error}") from error
        _check(parsed, number, file)
        yield parsed


def _azure(text: Iterator[str], file: Path) -> Iterator[_MooncakeLine]:
    rows = csv.DictReader(text)
    if rows.fieldnames is None or any(column not in rows.fieldnames for column in _AZURE_COLUMNS):
        raise ConfigError(f"{file} lacks a header with {', '.join(_AZURE_COLUMNS)}: it is not of Azure's form")
    next_block = 0
    for number, row in enumerate(rows, 2):
        try:
            at_ms = datetime.fromisoformat(row["TIMESTAMP"]).timestamp() * 1e3
            length, output = int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"line {number} of {file} is not a request of Azure's form: {error}") from error
        end = next_block + max(-(-length // BLOCK_TOKENS), 1)
        line = _MooncakeLine(at_ms, length, output, tuple(range(next_block, end)))
        next_block = end
        _check(line, number, file)
        yield line


def _check(line: _MooncakeLine, number: int, file: Path) -> None:
    expected = -(-line.input_length // BLOCK_TOKENS)
    if line.input_length < 1 or line.output_length < 0:
        what = f"{line.input_length} prompt and {line.output_length} output tokens"
    elif len(line.hash_ids) != expected:
        what = f"{line.input_length} tokens in {len(line.hash_ids)} blocks of {BLOCK_TOKENS} instead of {expected}"
    elif min(line.hash_ids) < 0 or max(line.hash_ids) >= 2**31:
        what = "a block's name outside 0 to 2**31 - 1"
    else:
        return
    raise ConfigError(f"line {number} of {file} has {what}")
