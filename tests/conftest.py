"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Machines that run the tests are busy: how long an example takes says nothing.
settings.register_profile("autotune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("autotune")
