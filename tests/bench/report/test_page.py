"""Places in a page."""

import pytest

from memserve.bench.report.page import fill, names
from memserve.core.errors import ConfigError

END = "<!-- end of results -->\n"
PAGE = f"# Head\n<!-- results: one -->\nold\n{END}between\n<!-- results: two -->\n{END}"


def test_only_what_stands_between_markers_changes() -> None:
    filled = fill(PAGE, {"one": "new", "two": "\\1 | more"})
    assert filled.startswith("# Head\n<!-- results: one -->\nnew\n<!-- end of results -->\nbetween\n")
    assert "\\1 | more" in filled
    assert "old" not in filled


def test_a_page_that_is_filled_twice_is_the_same() -> None:
    blocks = {"one": "1", "two": "2"}
    assert fill(fill(PAGE, blocks), blocks) == fill(PAGE, blocks)


def test_a_place_that_nothing_fills_is_named() -> None:
    with pytest.raises(ConfigError, match='fills the place "two" of the page: there are one'):
        fill(PAGE, {"one": "1"})


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("<!-- results: one -->\n", "has no"),
        ("<!-- results: one -->\n<!-- results: two -->\n<!-- end of results -->\n", "has no"),
        (PAGE.replace("two", "one"), "same name"),
    ],
)
def test_markers_that_do_not_match_are_refused(page: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        names(page)
