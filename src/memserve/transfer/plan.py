"""How the bytes of blocks are cut into pieces that each cost a network call. Arithmetic only.

Paged attention keeps K and V of each layer apart, so a block leaves in 2·L pieces unless its layers lie next to
each other (arXiv 2406.17565, "huge pages"): aggregated, a block is one piece, and several blocks share a call.
"""

from itertools import pairwise

from memserve.core.enums import PiecePlan


def pieces(plan: PiecePlan, *, num_bytes: int, num_layers: int) -> tuple[range, ...]:
    """Byte ranges of one block's part of `num_bytes`, which holds `num_layers` layers one after the other.

    Together they are the part. Fewer than 2·L where the part has no more bytes than that.
    """
    num_pieces = 1 if plan is PiecePlan.AGGREGATED else min(2 * num_layers, num_bytes)
    bounds = [num_bytes * number // num_pieces for number in range(num_pieces + 1)]
    return tuple(range(start, end) for start, end in pairwise(bounds))
