"""How many examples Hypothesis draws: few by default, many with ``--hypothesis-profile=thorough``. And fixtures."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

settings.register_profile("default", max_examples=40, derandomize=True, database=None, **_COMMON)
settings.register_profile("thorough", max_examples=500, print_blob=True, **_COMMON)
settings.load_profile("default")


@pytest.fixture
def values():
    """Draw normally distributed, read-only arrays, each call new ones."""
    rng = np.random.default_rng(20240607)

    def draw(*shape, dtype=np.float64):
        array = rng.standard_normal(shape)
        if np.issubdtype(dtype, np.complexfloating):
            array = array + 1j * rng.standard_normal(shape)
        array = np.asarray(array).astype(dtype)
        array.setflags(write=False)
        return array

    return draw


@pytest.fixture
def torchbp_command(capsys):
    """Run the command in this process; its exit code and what it printed."""

    def run(*arguments):
        from torchbp.cli.main import main  # an extra

        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run
