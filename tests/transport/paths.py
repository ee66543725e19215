"""All paths for KV, as parameters of tests: one that is not installed here is skipped and says so."""

from importlib.util import find_spec

import pytest

from memserve.core.enums import DataPath

NEEDS_NIXL = pytest.mark.skipif(find_spec("nixl") is None, reason='NIXL is not installed: pip install "memserve[nixl]"')
PATHS = [pytest.param(path, marks=[NEEDS_NIXL] if path is DataPath.NIXL else [], id=path) for path in DataPath]
