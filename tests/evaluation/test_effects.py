import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftrec.errors import InputError
from cftrec.evaluation.effects import by_position, group_shares, popularity_groups


@given(st.lists(st.lists(st.floats(-20, 0), max_size=6), max_size=8))
def test_means_by_position_equal_a_loop(rows):
    known = [np.array(row, dtype=np.float32) for row in rows]
    table = by_position(known, [array - 1 for array in known])
    assert table["position"].to_list() == list(range(1, max((len(row) for row in rows), default=0) + 1))
    for position, with_history, without_history, count in table.iter_rows():
        there = [float(array[position - 1]) for array in known if array.size >= position]
        assert count == len(there)
        assert with_history == pytest.approx(np.mean(there), abs=1e-5)
        assert without_history == pytest.approx(np.mean(there) - 1, abs=1e-5)


def test_tokens_must_match():
    with pytest.raises(InputError, match="numbers of tokens"):
        by_position([np.zeros(2)], [np.zeros(3)])


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_groups_hold_equal_mass_up_to_one_item(counts):
    count = np.array(counts)
    group = popularity_groups(count)
    order = np.argsort(-count, kind="stable")
    assert np.all(np.diff(group[order]) >= 0)
    assert np.all(group[count == 0] == 4)
    mass = np.bincount(group, weights=count, minlength=5)
    assert np.all(np.abs(mass - count.sum() / 5) <= count.max() + 1e-9)


def test_groups_of_a_plain_case():
    assert popularity_groups([1, 4, 1, 2, 2, 0]).tolist() == [4, 0, 4, 2, 3, 4]


def test_shares_ignore_padding():
    group = np.array([0, 1, 4], dtype=np.int8)
    assert group_shares([[0, 1], [2, -1], [0, -1]], group).tolist() == [0.5, 0.25, 0, 0, 0.25]
    assert group_shares([-1], group).tolist() == [0] * 5
