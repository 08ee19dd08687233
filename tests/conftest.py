"""What all tests share: the same random numbers in every run, and threads that leave room for the other workers."""

import os
import random
import signal

import hypothesis
import numpy as np
import pytest
import torch

# Found examples would differ from machine to machine and a slow machine is no failure.
slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("zoo", derandomize=True, deadline=None, suppress_health_check=slow)
hypothesis.settings.load_profile("zoo")


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several workers one thread, the processes that a test starts too; plots need no display."""
    os.environ["MPLBACKEND"] = "Agg"
    # A shell's job in the background ignores Ctrl-C, and so would the sweeps that tests interrupt and wait for.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):  # set by pytest-xdist in its workers
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Start every test from the same random state, whichever ran before it in the same worker."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test draw from the global state
    torch.manual_seed(0)
