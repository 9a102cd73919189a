"""Logs of this folder's tests."""

import numpy as np
import pytest
from small_logs import make_log

from cftrec.data.dataset import Dataset


@pytest.fixture(scope="session")
def log() -> Dataset:
    """A random log of 40 users over 30 items with repeats; item 29 is nobody's training event."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(2, 31)
    histories = [rng.choice(29, rng.integers(1, 15), p=weights / weights.sum()).tolist() for _ in range(40)]
    histories[3][-1] = 29
    histories[5] = [1, 2, 3, 4, 2]  # its target is in its history
    return make_log(histories, 30)


@pytest.fixture(scope="session")
def cycle() -> Dataset:
    """A log in which item n is always followed by n + 1, of 12."""
    return make_log([[(user + n) % 12 for n in range(8)] for user in range(24)], 12)
