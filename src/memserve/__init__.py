"""memserve: context caching and disaggregated serving at once, on stock vLLM."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memserve.core.enums import Tier as Tier
    from memserve.instance.mempool import MemPool as MemPool

__version__ = "0.1.0"

__all__ = ["MemPool", "Tier", "__version__"]


def __getattr__(name: str) -> object:
    """MemPool and Tier are imported when first asked for, so that `import memserve` stays light."""
    if name == "MemPool":
        from memserve.instance.mempool import MemPool  # noqa: PLC0415

        return MemPool
    if name == "Tier":
        from memserve.core.enums import Tier  # noqa: PLC0415

        return Tier
    raise AttributeError(f"module memserve has no attribute {name}")
