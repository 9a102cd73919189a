import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.errors import InputError
from cftrec.evaluation import popularity, rank_by_popularity


def brute_force(counts, history, target, k):
    """Sort the whole catalogue by (count, item index), leave out, look up."""
    seen = set(history) - {target}
    order = [item for item in sorted(range(len(counts)), key=lambda item: (-counts[item], item)) if item not in seen]
    rank = order.index(target) + 1 if target >= 0 else 0
    return (order + [-1] * k)[:k], rank


@st.composite
def cases(draw):
    items = draw(st.integers(1, 12))
    counts = draw(st.lists(st.integers(0, 4), min_size=items, max_size=items))
    item = st.integers(0, items - 1)
    rows = draw(st.lists(st.tuples(st.lists(item, max_size=10), st.one_of(item, st.just(-1))), max_size=6))
    return counts, [row[0] for row in rows], [row[1] for row in rows], draw(st.integers(1, 15))


@given(cases(), st.sampled_from([1, 4_000_000]))
@settings(deadline=None)
def test_equals_brute_force(case, block):
    counts, histories, targets, k = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(popularity, "_BLOCK", block)
        found = rank_by_popularity(counts, histories, targets, k)
    assert found.items.shape == (len(targets), k)
    for row, (history, target) in enumerate(zip(histories, targets, strict=True)):
        items, rank = brute_force(counts, history, target, k)
        assert found.items[row].tolist() == items
        assert found.ranks[row] == rank


def test_its_own_target_is_never_left_out():
    found = rank_by_popularity([5, 3, 1], [[0, 1, 0]], [0], k=2)
    assert found.items.tolist() == [[0, 2]]
    assert found.ranks.tolist() == [1]


def test_bad_input():
    with pytest.raises(InputError, match="k is 0"):
        rank_by_popularity([1], [[]], [0], k=0)
    with pytest.raises(InputError, match="1 histories for 2 targets"):
        rank_by_popularity([1], [[]], [0, 0])


def test_large_catalogue_stays_in_memory_and_quick():
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, 20_000, size=size) for size in rng.integers(0, 200, size=3_000)]
    found = rank_by_popularity(rng.integers(0, 50, size=20_000), histories, rng.integers(0, 20_000, size=3_000))
    assert found.items.min() >= 0
