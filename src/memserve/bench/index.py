"""`memserve bench index`: the radix index beside the indexes of its peers, on the same prompts.

Each system runs in its own process; they take turns in small rounds, so that what else the machine does
falls on all of them. Every system that starts is measured in every tree.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from memserve.bench.child import Say, SystemChild, SystemSpec, start_all
from memserve.bench.prompts import Shape
from memserve.bench.records import Missing, Report, Row, make_report, timed_row
from memserve.core.errors import ConfigError

SYSTEMS = (
    SystemSpec(name="memserve", module="memserve_index"),
    SystemSpec(name="dynamo", module="dynamo_index", environment="dynamo"),
    SystemSpec(name="sglang", module="sglang_index", environment="sglang"),
    SystemSpec(name="vllm", module="vllm_index"),
)
TREES = ("deep", "shallow")
PROMPT_BLOCKS = (32, 128, 512)
CACHED_PERCENT = (0, 25, 50, 75, 100)
_FOUR_K = 256
"""Blocks of the prompts whose cached part varies: 4,096 tokens."""
_TURNS_A_ROUND = 500
_LEAVES_A_ROUND = 25
_WARM_UP_ROUNDS = 2

Times = dict[tuple[str, str, str], list[int]]
"""(system, operation, form of the input) -> nanoseconds."""


class IndexPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure."""

    scale: int = 1
    """Divides the 10,000 prompts of a tree."""
    num_rounds: int = 20
    """Of 25 lookups by each system in each tree, shared out among the forms of input it takes."""
    systems: tuple[str, ...] = tuple(spec.name for spec in SYSTEMS)


def run_index(*, peers: Path, plan: IndexPlan, say: Say) -> Report:
    """Measure every tree and length; minutes. Raises ConfigError for a system that there is not."""
    unknown = set(plan.systems) - {spec.name for spec in SYSTEMS}
    if unknown or not plan.systems:
        names = ", ".join(spec.name for spec in SYSTEMS)
        raise ConfigError(f'--systems "{",".join(plan.systems)}": choose among {names}')
    specs = tuple(spec for spec in SYSTEMS if spec.name in plan.systems)
    rows: list[Row] = []
    missing: dict[str, Missing] = {}
    shapes = [Shape(tree, blocks, plan.scale) for tree in TREES for blocks in PROMPT_BLOCKS]
    for shape in [*shapes, Shape("deep", _FOUR_K, 10)]:
        with ExitStack() as stack:
            children, absent = start_all(specs, peers=peers)
            for child in children:
                stack.enter_context(child)
            missing.update({each.system: each for each in absent})
            say(f"{shape.tree} tree, {shape.num_prompts} prompts of {shape.blocks} blocks: {len(children)} systems")
            percents = CACHED_PERCENT if shape.blocks == _FOUR_K else (100,)
            rows += measure_shape(children, shape, plan=plan, percents=percents)
    return make_report("index", results=rows, missing=list(missing.values()))


def measure_shape(
    children: Sequence[SystemChild], shape: Shape, *, plan: IndexPlan, percents: Sequence[int]
) -> list[Row]:
    """Build the same tree in every child, then look prompts up in it."""
    forms: dict[str, list[str]] = {
        child.spec.name: child.ask("open", tree=shape.tree, blocks=shape.blocks, scale=shape.scale)
        for child in children
    }
    times: Times = defaultdict(list)
    _build(children, times, num_rounds=-(-_num_turns(shape) // _TURNS_A_ROUND))
    memory = {child.spec.name: float(child.ask("memory")) for child in children}
    for leaves in _rounds(shape, plan):
        for child in children:
            _look_up(child, times, leaves=leaves, forms=forms[child.spec.name], percents=percents)
    return [row for child in children for row in _rows(child, shape, times, memory[child.spec.name], plan.num_rounds)]


def _build(children: Sequence[SystemChild], times: Times, *, num_rounds: int) -> None:
    for number in range(num_rounds):
        for child in children:
            for form, spent in child.ask("insert", count=_TURNS_A_ROUND):
                if number or num_rounds == 1:
                    times[child.spec.name, "insert", form].append(spent)


def _look_up(
    child: SystemChild, times: Times, *, leaves: Sequence[int], forms: Sequence[str], percents: Sequence[int]
) -> None:
    name = child.spec.name
    parts = [leaves[number :: len(forms)] for number in range(len(forms))]
    for form, part in zip(forms, parts, strict=True):  # each its own prompts: the second to ask finds warm caches
        for percent in percents:
            operation = "match" if percents == (100,) else f"match_{percent}_percent_cached"
            times[name, operation, form] += child.ask("match", leaves=part, percent=percent, form=form)
    for extra in child.ask("extra", leaves=leaves):
        for operation, spent in extra.items():
            times[name, operation, forms[0]].append(spent)


def _rounds(shape: Shape, plan: IndexPlan) -> Iterator[list[int]]:
    chosen = random.Random(shape.blocks)  # noqa: S311 - which prompts, the same in every run
    for _ in range(_WARM_UP_ROUNDS + plan.num_rounds):
        yield [chosen.randrange(shape.num_prompts) for _ in range(_LEAVES_A_ROUND)]


def _rows(child: SystemChild, shape: Shape, times: Times, bytes_a_block: float, num_rounds: int) -> Iterator[Row]:
    base = Row(system=child.spec.name, version=child.version, operation="", tree=shape.tree, blocks=shape.blocks)
    for (name, operation, form), spent in times.items():
        if name == child.spec.name:
            skip = 0 if operation == "insert" else len(spent) * _WARM_UP_ROUNDS // (_WARM_UP_ROUNDS + num_rounds)
            yield timed_row(spent[skip:], msgspec.structs.replace(base, operation=operation, input=form))
    yield msgspec.structs.replace(base, operation="memory", size_bytes=round(bytes_a_block), count=shape.num_blocks)


def _num_turns(shape: Shape) -> int:
    return shape.num_blocks // shape.segment_blocks
