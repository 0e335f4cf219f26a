"""How many examples Hypothesis draws: few by default, many with ``--hypothesis-profile=thorough``."""

from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

settings.register_profile("default", max_examples=80, derandomize=True, database=None, **_COMMON)
settings.register_profile("thorough", max_examples=500, print_blob=True, **_COMMON)
settings.load_profile("default")
