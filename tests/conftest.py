"""What holds for the whole test run: what starts real engines comes last, so that quick failures show first; no example
of a property fails for being slow, since how fast the machine is just then is no property of the code.
"""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("memserve", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("memserve")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("engine") is not None)
