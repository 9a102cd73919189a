import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.evaluation.effects import popularity_groups
from cftrec.evaluation.lists import LIST_METRICS, TOGETHER, all_lists, per_list
from cftrec.evaluation.metrics import CUTOFFS


def random_lists(seed, n=12, catalogue=9, longest=25):
    """Lists of distinct items, some short, some empty, padded with -1; histories with repeats."""
    rng = np.random.default_rng(seed)
    items = np.full((n, longest), -1)
    for row in items:
        chosen = rng.permutation(catalogue)[: rng.integers(0, catalogue + 1)]
        row[: chosen.size] = chosen
    histories = np.where(np.arange(6) < rng.integers(0, 7, size=n)[:, None], rng.integers(0, catalogue, (n, 6)), -1)
    counts = rng.integers(0, 6, size=catalogue)
    counts[0] += 1
    return items, histories, counts


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_metrics_of_a_list_as_defined(seed):
    items, histories, counts = random_lists(seed)
    group = popularity_groups(counts)
    found = per_list(items, counts, histories)
    assert tuple(found) == LIST_METRICS
    for row, (recommended, history) in enumerate(zip(items, histories, strict=True)):
        past = [group[item] for item in history if item >= 0]
        for k in CUTOFFS:
            top = [item for item in recommended[:k] if item >= 0]
            expected = [
                np.mean([counts[item] for item in top]) if top else np.nan,
                np.mean([-np.log2(max(1, counts[item]) / counts.sum()) for item in top]) if top else np.nan,
                np.mean([group[item] for item in top]) - np.mean(past) if top and past else np.nan,
            ]
            measured = [found[f"{kind}@{k}"][row] for kind in ("popularity", "novelty", "shift")]
            np.testing.assert_allclose(measured, expected, rtol=1e-12, atol=1e-12)


def naive_gini(counts):
    """Half the mean absolute difference over the mean."""
    differences = [abs(a - b) for a in counts for b in counts]
    return np.mean(differences) / 2 / np.mean(counts)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_coverage_and_gini_as_defined(seed):
    items, _, _ = random_lists(seed)
    users = np.arange(len(items)) // 2
    found = all_lists(items, users, catalogue=15)
    assert tuple(found) == (TOGETHER if (items >= 0).any() else ())
    for name, (value, _) in found.items():
        kind, k = name.split("@")
        shown = items[:, : int(k)]
        counts = [(shown == item).sum() for item in range(15)]
        expected = np.mean([count > 0 for count in counts]) if kind == "coverage" else naive_gini(counts)
        assert value == pytest.approx(expected, rel=1e-12)


def leave_one_out(items, users, catalogue, name):
    values = np.array(
        [all_lists(items[users != user], users[users != user], catalogue)[name].value for user in np.unique(users)]
    )
    return np.sqrt((values.size - 1) * values.var())


def test_errors_are_those_of_leaving_out_one_user():
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 81)
    items = np.array([rng.choice(80, size=20, replace=False, p=weights / weights.sum()) for _ in range(120)])
    items[-1] = -1
    users = np.arange(120) // 2
    for name, (_, error) in all_lists(items, users, 80).items():
        expected = leave_one_out(items, users, 80, name)
        assert error == pytest.approx(expected, rel=1e-9), name


def test_errors_are_about_the_spread_over_other_users():
    """Too large rather than too small (Efron and Stein)."""
    rng = np.random.default_rng(1)
    weights = 1 / np.arange(1, 61)
    lists = rng.choice(60, size=(400, 40, 20), p=weights / weights.sum())  # repeats in a list do not matter here
    found = [all_lists(items, np.arange(40), 60) for items in lists]
    for name in ("coverage@10", "Gini@10"):
        spread = np.std([one[name].value for one in found])
        error = np.sqrt(np.mean([one[name].error ** 2 for one in found]))
        assert 1.0 < error / spread < 1.6


def test_the_ends_of_the_scale():
    one = all_lists(np.zeros((4, 20), dtype=int) - (np.arange(20) > 0), np.arange(4), 10)
    assert (one["coverage@10"].value, one["Gini@10"].value) == (pytest.approx(0.1), pytest.approx(0.9))
    everything = all_lists(np.tile(np.arange(20), (3, 1)), np.arange(3), 20)
    assert everything["coverage@20"] == (1.0, 0.0)
    assert everything["Gini@20"].value == pytest.approx(0.0)
    alone = all_lists(np.arange(20)[None], np.zeros(1, dtype=int), 20)
    assert np.isnan([estimate.error for estimate in alone.values()]).all()
