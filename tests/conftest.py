"""Settings that hold for every test."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time: a failure seen once is seen again, on any machine. No deadline: shared machines stall.
settings.register_profile("rafttoy", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
# `pytest --hypothesis-profile explore` looks for new examples.
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("rafttoy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers (`--dist loadgroup`), one of them runs all tests of the real world, one after the other: two at once would
    compete for the disk and the cores that they wait for. Others stay with those of their file, which share its fixtures."""
    for item in items:
        real = item.get_closest_marker("real") is not None
        item.add_marker(pytest.mark.xdist_group("real" if real else str(item.path)))
