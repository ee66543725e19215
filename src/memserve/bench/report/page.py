"""Where in a page of Markdown results go: between markers, everything else stays as it was written.

<!-- results: NAME -->
... made again each time ...
<!-- end of results -->
"""

import re
from collections.abc import Mapping

from memserve.core.errors import ConfigError

_PLACE = re.compile(r"<!-- results: (?P<name>[\w-]+) -->\n(?P<old>.*?)<!-- end of results -->", re.DOTALL)
_BEGIN = re.compile(r"<!-- results: [\w-]+ -->")


def names(page: str) -> list[str]:
    """Of all places, in their order. Raises ConfigError for a marker without its end, or a name that comes twice."""
    found = [match["name"] for match in _PLACE.finditer(page)]
    if len(found) != len(_BEGIN.findall(page)):
        raise ConfigError('a marker "<!-- results: NAME -->" of the page has no "<!-- end of results -->" of its own')
    if len(set(found)) != len(found):
        raise ConfigError("two places of the page have the same name: give each section one")
    return found


def fill(page: str, blocks: Mapping[str, str]) -> str:
    """The page with every place filled. Raises ConfigError for a place that nothing fills."""
    unknown = [name for name in names(page) if name not in blocks]
    if unknown:
        raise ConfigError(f'nothing fills the place "{unknown[0]}" of the page: there are {", ".join(blocks)}')
    return _PLACE.sub(
        lambda match: f"<!-- results: {match['name']} -->\n{blocks[match['name']]}\n<!-- end of results -->", page
    )
