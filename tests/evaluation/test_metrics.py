import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftrec.errors import InputError
from cftrec.evaluation import METRICS, means, per_target


def naive(rank: int | None, metric: str) -> float:
    kind, cutoff = metric.split("@")
    if not rank or rank > int(cutoff):
        return 0.0
    return {"HR": 1.0, "NDCG": 1 / math.log2(1 + rank), "MRR": 1 / rank}[kind]


@given(st.lists(st.one_of(st.none(), st.integers(0, 30)), min_size=1, max_size=50))
def test_equal_the_formulas_row_by_row(ranks):
    values = per_target(ranks)
    assert tuple(values) == METRICS
    for metric, array in values.items():
        expected = [naive(rank, metric) for rank in ranks]
        np.testing.assert_allclose(array, expected, rtol=1e-14)
        assert means(values)[metric] == pytest.approx(sum(expected) / len(expected))


def test_series_arrays_and_lists_are_alike():
    series = pl.Series([1, None, 3], dtype=pl.Int32)
    for other in ([1, None, 3], np.array([1, 0, 3])):
        for metric, array in per_target(series).items():
            np.testing.assert_array_equal(array, per_target(other)[metric])


def test_nobody_found_gives_zeros():
    assert set(means(per_target(pl.Series([None, None], dtype=pl.Null))).values()) == {0.0}


def test_bad_ranks_are_refused():
    with pytest.raises(InputError, match=r"row 1: rank -2 is negative"):
        per_target([1, -2])
    with pytest.raises(InputError, match="whole numbers"):
        per_target(pl.Series([1.5]))
    with pytest.raises(InputError, match="no target to measure"):
        means(per_target([]))
