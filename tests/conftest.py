"""Settings that hold for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples each time: a failure seen once is seen again, on any machine. No deadline: shared machines stall.
settings.register_profile("rafttoy", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
# `pytest --hypothesis-profile explore` looks for new examples.
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("rafttoy")
