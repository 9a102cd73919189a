import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.errors import InputError
from cftrec.evaluation import intervals, paired_test, paired_tests, resampled_means, significance


def naive_means(values, users, draws, seed):
    """Draw users one sample at a time and average all their targets."""
    names = sorted(set(users))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(names), size=(draws, len(names)))
    return np.array([np.concatenate([values[users == names[user]] for user in row]).mean(axis=0) for row in drawn])


@given(st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_equals_a_loop_over_draws_and_users(user_count, seed):
    rng = np.random.default_rng(seed)
    users = np.concatenate([np.arange(user_count), rng.integers(0, user_count, size=15)])
    values = rng.random((users.size, 3))
    np.testing.assert_allclose(
        resampled_means(values, users, draws=50, seed=seed), naive_means(values, users, 50, seed), rtol=1e-12
    )


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    values, users = rng.random((40, 2)), rng.integers(0, 15, size=40)
    whole = resampled_means(values, users, draws=100)
    monkeypatch.setattr(significance, "_BLOCK", 70)
    np.testing.assert_allclose(resampled_means(values, users, draws=100), whole, rtol=1e-12)


def test_intervals_are_percentiles():
    drawn = np.random.default_rng(0).random((500, 2))
    for column, (low, high) in zip(drawn.T, intervals(drawn), strict=True):
        assert (low, high) == pytest.approx((np.percentile(column, 2.5), np.percentile(column, 97.5)))


def test_interval_is_about_two_standard_errors():
    values = np.random.default_rng(0).standard_normal((2_000, 1))
    (low, high), error = intervals(resampled_means(values, np.arange(2_000)))[0], values.std() / np.sqrt(2_000)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_a_users_targets_move_together():
    """Ten copies of each user's target say no more than one."""
    values = np.random.default_rng(0).random(50)
    one = intervals(resampled_means(values[:, None], np.arange(50)))
    ten = intervals(resampled_means(np.tile(values, 10)[:, None], np.tile(np.arange(50), 10)))
    np.testing.assert_allclose(ten, one)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_identical_models_differ_by_nothing(values):
    result = paired_test(values, values, np.arange(len(values)) // 2, draws=100)
    assert (result.difference, result.p, result.ci) == (0.0, 1.0, (0.0, 0.0))


def test_the_same_sums_in_another_order_are_no_difference():
    values = np.random.default_rng(0).random(300)
    users = np.arange(300) // 3
    rotated = values.reshape(-1, 3)[:, [2, 0, 1]].ravel()
    assert paired_test(values, rotated, users).p == 1.0


def test_p_is_never_zero_and_symmetric():
    better = np.full(100, 1.0)
    result = paired_test(better, np.zeros(100), np.arange(100), draws=500)
    assert result.difference == 1.0
    assert result.p == pytest.approx(2 / 501)
    assert paired_test(np.zeros(100), better, np.arange(100), draws=500).p == result.p


def test_p_below_one_in_twenty_means_an_interval_without_zero():
    rng = np.random.default_rng(1)
    differences = rng.standard_normal((200, 40)) + np.linspace(-0.3, 0.3, 40)
    results = paired_tests(differences, np.arange(200))
    assert {result.p < 0.05 for result in results} == {True, False}
    for result in results:
        if abs(result.p - 0.05) > 0.005:
            assert (result.p < 0.05) == (result.ci[0] > 0 or result.ci[1] < 0)


def test_p_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(2)
    p = [result.p for result in paired_tests(rng.standard_normal((150, 400)), np.arange(150), draws=500)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)


def test_seed_decides():
    values, users = np.random.default_rng(0).random((30, 1)), np.arange(30)
    np.testing.assert_array_equal(resampled_means(values, users, seed=3), resampled_means(values, users, seed=3))
    assert not np.array_equal(resampled_means(values, users, seed=3), resampled_means(values, users, seed=4))


def test_many_users_are_quick():
    values = np.random.default_rng(0).random((10_000, 16))
    started = time.perf_counter()
    assert resampled_means(values, np.arange(10_000)).shape == (2_000, 16)
    assert time.perf_counter() - started < 5


def test_holm():
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: resampled_means(np.empty((0, 1)), []), "no target to draw from"),
        (lambda: resampled_means(np.ones((2, 1)), [1, 2], draws=0), "draws is 0"),
        (lambda: resampled_means(np.ones(2), [1, 2]), r"values \[n, metrics\]"),
        (lambda: resampled_means(np.ones((2, 1)), [1]), r"users \[n\]"),
        (lambda: paired_test([1.0], [1.0, 2.0], [1]), "same targets twice"),
    ],
)
def test_bad_input(call, line):
    with pytest.raises(InputError, match=line):
        call()
