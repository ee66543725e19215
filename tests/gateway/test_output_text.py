"""Text of an output with stop strings: the same however its tokens are handed in, and never a stop string too far."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from memserve.gateway.detokenizer import Detokenizer
from memserve.gateway.output_text import OutputText
from tests.fakes.model import REPLY, SCRIPT, TOKENIZER

PIECES = ("a", "b", "ab", "", "c ", "\u00e9")
STOPS = st.lists(st.text("abc \u00e9", min_size=1, max_size=4), max_size=3)


def text_of(stop: list[str], *, keeps_stop: bool, min_tokens: int) -> OutputText:
    return OutputText(PIECES.__getitem__, stop=stop, keeps_stop=keeps_stop, min_tokens=min_tokens)


@given(
    tokens=st.lists(st.integers(0, len(PIECES) - 1), max_size=12),
    cuts=st.lists(st.integers(0, 12)),
    stop=STOPS,
    keeps_stop=st.booleans(),
    min_tokens=st.integers(0, 5),
)
def test_it_does_not_matter_in_which_parts_tokens_come(
    tokens: list[int], cuts: list[int], stop: list[str], keeps_stop: bool, min_tokens: int
) -> None:
    at_once = text_of(stop, keeps_stop=keeps_stop, min_tokens=min_tokens)
    ended = at_once.add(tokens)
    in_parts = text_of(stop, keeps_stop=keeps_stop, min_tokens=min_tokens)
    bounds = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    found, shown = None, ""
    for begin, end in pairwise(bounds):
        found = in_parts.add(tokens[begin:end])
        if found is not None:
            break
        shown += in_parts.show(is_last=False)
    shown += in_parts.show(is_last=True)
    assert (found, in_parts.text, in_parts.num_tokens) == (ended, at_once.text, at_once.num_tokens)
    assert shown == at_once.text


@given(tokens=st.lists(st.integers(0, len(PIECES) - 1), max_size=12), stop=STOPS, keeps_stop=st.booleans())
def test_the_text_ends_at_the_stop_string_that_is_complete_first(
    tokens: list[int], stop: list[str], keeps_stop: bool
) -> None:
    text = text_of(stop, keeps_stop=keeps_stop, min_tokens=0)
    ended = text.add(tokens)
    whole = "".join(PIECES[token] for token in tokens)
    ends = [whole.find(s) + len(s) for s in stop if s in whole]
    if not ends:
        assert (ended, text.text) == (None, whole)
    else:
        assert ended is not None
        assert text.text + ("" if keeps_stop else ended) == whole[: min(ends)]


def test_characters_of_several_tokens_appear_with_the_last_of_them() -> None:
    step = Detokenizer(TOKENIZER).after([1, 2, REPLY])
    assert [step(token) for token in SCRIPT[3:]] == [' "usage":', "", "", " \u00e9\U0001f600", " done"]


def test_tokens_that_are_no_utf8_do_not_end_the_answer() -> None:
    step = Detokenizer(TOKENIZER).after([REPLY])
    broken = [SCRIPT[6]] * 3
    text = "".join(step(token) for token in [SCRIPT[0], *broken, SCRIPT[0], SCRIPT[1]])
    assert text.startswith("Paged")
    assert text.endswith(" memory")
