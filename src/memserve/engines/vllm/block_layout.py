"""Where each rank's heads lie in a pool block: arithmetic only, so that instances of any tensor-parallel size share.

A pool block holds a token block of the whole model, whatever the size of the instance that wrote it:

    block:           layer 0                       | layer 1                       | ...
    a layer, H = 4:  head 0 | head 1 | head 2 | head 3
    TP = 2:          [---- rank 0 ---)[---- rank 1 ---)
    TP = 8:          [0 and 1)[2 and 3)[4 and 5)[6 and 7)    ranks 1, 3, 5 and 7 read, and write nothing

Bytes of a head (its tokens, K and V) are opaque here. So one rank's part of a layer is one piece, and what was
written at one size is read at another without conversion.
"""

import msgspec

from memserve.core.errors import ConfigError


class RankShare(msgspec.Struct, frozen=True, kw_only=True):
    """Heads [first_head, end_head) of every layer."""

    first_head: int
    end_head: int
    is_writer: bool
    """False: another rank holds the same heads and writes them for both."""

    @property
    def num_heads(self) -> int:
        return self.end_head - self.first_head


class BlockLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Of the whole model, all ranks."""

    num_layers: int
    num_heads: int
    """KV heads a layer."""
    head_bytes: int
    """Of one head of one layer for the tokens of a block."""

    @property
    def layer_bytes(self) -> int:
        return self.num_heads * self.head_bytes

    @property
    def block_bytes(self) -> int:
        return self.num_layers * self.layer_bytes

    def offset(self, layer: int, share: RankShare) -> int:
        """Where a rank's heads of one layer begin, in bytes from the beginning of the block."""
        return layer * self.layer_bytes + share.first_head * self.head_bytes


def rank_share(*, rank: int, num_ranks: int, num_heads: int) -> RankShare:
    """As vLLM shares out KV heads: evenly, and with more ranks than heads the same head to neighbouring ranks.

    Raises ConfigError when one number does not divide the other.
    """
    if not 0 <= rank < num_ranks or num_heads < 1 or (num_heads % num_ranks and num_ranks % num_heads):
        raise ConfigError(
            f"rank {rank} of {num_ranks} cannot hold its part of {num_heads} KV heads: choose a tensor-parallel size "
            "that divides them or is a multiple of them"
        )
    num_shares = min(num_ranks, num_heads)
    num_replicas = num_ranks // num_shares
    share, replica = divmod(rank, num_replicas)
    each = num_heads // num_shares
    return RankShare(first_head=share * each, end_head=(share + 1) * each, is_writer=replica == 0)
