"""Texts tokenised piece by piece: the tokens are those of the whole text, whatever is remembered."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from memserve.gateway.piece_encoder import PieceEncoder, cuts_cleanly

SPECIALS = ("<|a|>", "<|a|>b", "</s>", "|>")
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "he"), ("a", "|"), (">", "b")]


def tokenizer(*added: AddedToken) -> Tokenizer:
    """Byte pairs with special tokens of which one begins with another, and one ends within them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *("".join(pair) for pair in MERGES)]
    made = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIALS])
    made.add_tokens(list(added))
    made.normalizer = normalizers.NFC()
    return made


TEXTS = st.lists(
    st.sampled_from([*SPECIALS, "hell", " he", "a|>b", " ", "<", "é", "e", "\u0301"]) | st.text(max_size=4)
).map("".join)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_the_tokens_are_those_of_the_whole_text(texts: list[str]) -> None:
    whole, pieces = tokenizer(), PieceEncoder(tokenizer(), max_bytes=200)
    for text in [*texts, *texts]:
        expected = array("i", whole.encode(text, add_special_tokens=False).ids).tobytes()
        assert pieces.encode(pieces.cut(text)) == expected


def test_only_what_is_new_of_a_text_is_missing() -> None:
    pieces = PieceEncoder(tokenizer())
    pieces.encode(pieces.cut("hello</s>"))
    assert pieces.cut("hello</s>you").num_missing == len("you")


def test_one_salt_does_not_find_what_another_one_has_had_tokenised() -> None:
    pieces = PieceEncoder(tokenizer())
    pieces.encode(pieces.cut("hello", salt="mine"))
    assert [pieces.cut("hello", salt=salt).num_missing for salt in ("mine", "yours", "")] == [0, 5, 5]


def test_what_was_not_used_for_longest_is_forgotten_first() -> None:
    pieces = PieceEncoder(tokenizer(), max_bytes=8 * 30)
    for text in ("a" * 5, "b" * 5, "a" * 5, *(c * 5 for c in "cdefghijk")):
        pieces.encode(pieces.cut(text))
        pieces.encode(pieces.cut("a" * 5))
    assert [pieces.cut(c * 5).num_missing for c in "abk"] == [0, 5, 0]


def test_a_piece_that_would_push_much_else_out_is_not_remembered() -> None:
    pieces = PieceEncoder(tokenizer(), max_bytes=800)
    pieces.encode(pieces.cut("x" * 50))
    assert pieces.cut("x" * 50).num_missing == 50


@pytest.mark.parametrize("added", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}])
def test_a_special_token_that_takes_from_its_neighbours_rules_it_out(added: dict[str, bool]) -> None:
    assert cuts_cleanly(tokenizer())
    assert not cuts_cleanly(tokenizer(AddedToken("<x>", **({"normalized": False} | added))))


def test_a_tokenizer_that_treats_the_start_of_a_text_in_its_own_way_is_ruled_out() -> None:
    made = tokenizer()
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])
    assert not cuts_cleanly(made)
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    assert not cuts_cleanly(made)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert cuts_cleanly(made)
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Prepend(" ")])
    assert not cuts_cleanly(made)
