"""Ragged arrays against lists of lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cftrec.ragged import Ragged, ranges

runs = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6)


@given(runs)
def test_runs_are_joined_and_split_again(lists):
    ragged = Ragged.of(lists)
    assert ragged.values.dtype == ragged.lengths.dtype == np.int64
    assert ragged.values.tolist() == [value for run in lists for value in run]
    assert [part.tolist() for part in ragged.split()] == lists
    assert [ragged.values[start] for start, run in zip(ragged.starts, lists, strict=True) if run] == [
        run[0] for run in lists if run
    ]
    assert Ragged.of(ragged) is ragged


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_ranges(pairs):
    starts, lengths = (np.array([pair[n] for pair in pairs], dtype=np.int64) for n in (0, 1))
    assert ranges(starts, lengths).tolist() == [start + n for start, length in pairs for n in range(length)]
