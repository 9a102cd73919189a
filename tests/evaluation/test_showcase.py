import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cftrec.evaluation.showcase import choose_users


def test_spread_over_lengths_and_over_hits_and_misses():
    lengths = np.arange(100)[::-1].copy()
    found = np.arange(100) % 2 == 0
    chosen = choose_users(lengths, np.arange(100), found)
    assert [int(lengths[row]) // 20 for row in chosen] == [0, 1, 2, 3, 4]
    assert found[chosen].tolist() == [True, False, True, False, True]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6), st.booleans()), min_size=1, max_size=40))
def test_any_targets(rows):
    lengths, users, found = (np.array(column) for column in zip(*rows, strict=True))
    chosen = choose_users(lengths, users, found)
    assert 1 <= chosen.size <= 5
    assert len(set(users[chosen])) == chosen.size
    assert np.all(np.diff(lengths[chosen]) >= 0)
    np.testing.assert_array_equal(chosen, choose_users(lengths, users, found))
