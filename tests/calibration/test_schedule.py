"""What is measured: lengths that fit, ratios that differ, and judges that the fit never sees."""

import pytest

from memserve.calibration.schedule import longest_prompt, schedule


@pytest.mark.parametrize(("longest", "block_size"), [(256, 32), (4096, 16), (8192, 128)])
def test_every_length_is_whole_blocks_and_one_token_and_chains_grow(longest: int, block_size: int) -> None:
    plan = schedule(longest=longest, block_size=block_size)
    for chain in plan.chains:
        assert list(chain.lengths) == sorted(set(chain.lengths))
        assert all(length % block_size == 1 for length in chain.lengths)
    assert plan.longest == longest + 1


def test_no_length_batch_or_size_is_used_for_both_the_fit_and_the_judgement() -> None:
    plan = schedule(longest=4096, block_size=16)
    lengths = {judges: {n for c in plan.chains if c.judges == judges for n in c.lengths} for judges in (True, False)}
    decodes = {j: {(d.batch, d.context_tokens) for d in plan.decodes if d.judges == j} for j in (True, False)}
    moves = {j: {m.num_blocks for m in plan.moves if m.judges == j} for j in (True, False)}
    for kind in (lengths, decodes, moves):
        assert kind[True]
        assert kind[False]
        assert not kind[True] & kind[False]


def test_a_faster_engine_gets_longer_prompts_and_none_gets_more_than_fit() -> None:
    slow, fast = (longest_prompt(tokens_per_s=speed, seconds=60, block_size=32, most=8192) for speed in (200.0, 2000.0))
    assert slow < fast <= 8192
    assert longest_prompt(tokens_per_s=1e6, seconds=60, block_size=32, most=1000) == 992
    assert longest_prompt(tokens_per_s=0.1, seconds=1, block_size=32, most=8192) == 256
