"""Hugging Face Transformers on MemPool: a model's `Cache` is saved by tokens and restored, here or in another process.

Shows that the pool is tied to no engine: nothing below this folder knows torch or a model. Importing it needs torch.
"""

from memserve.engines.transformers.generation import generate
from memserve.engines.transformers.identity import kv_identity
from memserve.engines.transformers.layout import KvLayout, layout_of
from memserve.engines.transformers.store import KvStore

__all__ = ["KvLayout", "KvStore", "generate", "kv_identity", "layout_of"]
