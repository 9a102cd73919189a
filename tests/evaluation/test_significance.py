import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.errors import InputError
from cftrec.evaluation import intervals, paired_test, resample, resampled_means, sign_flip_p, significance


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
    values, users = rng.random((3, 40, 2)), rng.integers(0, 15, size=40)
    whole, p = resampled_means(values, users, draws=100), sign_flip_p(values[0] - 0.5, draws=100)
    monkeypatch.setattr(significance, "_BLOCK", 70)
    monkeypatch.setattr(significance, "_CACHED", 40)
    np.testing.assert_allclose(resampled_means(values, users, draws=100), whole, rtol=1e-12)
    np.testing.assert_array_equal(sign_flip_p(values[0] - 0.5, draws=100), p)


def naive_resampling(models, users, weights, draws, seed):
    """Draw users and each model's seeds one sample at a time; average the targets that have a value, then the seeds."""
    names = sorted(set(users))
    rng = np.random.default_rng(seed)
    samples = [[names[user] for user in rng.integers(0, len(names), size=len(names))] for _ in range(draws)]
    found = []
    for number, seeds in enumerate(models):
        chosen = np.zeros((draws, 1), dtype=int)
        if len(seeds) > 1:
            chosen = np.random.default_rng((seed, 1 + number)).integers(0, len(seeds), size=(draws, len(seeds) - 1))
        found.append(
            [
                np.mean([naive_mean(seeds[s], users, weights, drawn) for s in row], axis=0)
                for drawn, row in zip(samples, chosen, strict=True)
            ]
        )
    return np.array(found)


def naive_mean(values, users, weights, drawn):
    """Average the targets of drawn users, column by column; a user drawn twice counts twice."""
    means = []
    for column, weight in zip(values.T, weights.T, strict=True):
        total = size = 0.0
        for user in drawn:
            for target in np.flatnonzero((users == user) & ~np.isnan(column)):
                total += weight[target] * column[target]
                size += weight[target]
        means.append(total / size if size else np.nan)
    return np.array(means)


@given(st.integers(1, 8), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_seeds_weights_and_missing_values_as_in_a_loop(user_count, seed_counts, seed):
    rng = np.random.default_rng(seed)
    users = np.concatenate([np.arange(user_count), rng.integers(0, user_count, size=9)])
    models = [rng.random((count, users.size, 3)) for count in seed_counts]
    for values in models:
        values[..., 1][rng.random(values.shape[:2]) < 0.5] = np.nan
    weights = rng.random((users.size, 3)) + 0.1
    found = resample(models, users, weights, draws=20, seed=seed)
    expected = naive_resampling(models, users, weights, 20, seed)
    for model, values, drawn in zip(found, models, expected, strict=True):
        np.testing.assert_allclose(model.drawn, drawn, rtol=1e-10)
        means = [naive_mean(one, users, weights, sorted(set(users))) for one in values]
        np.testing.assert_allclose(model.means, np.mean(means, axis=0), rtol=1e-10)


def test_seeds_widen_the_interval_by_their_own_variance():
    """The drawn means' variance is the users' plus s^2 / S of the S seeds."""
    rng = np.random.default_rng(0)
    users, luck = rng.standard_normal(400), rng.standard_normal(3)
    (alone,) = resample([users[None, :, None]], np.arange(400), draws=20_000)
    (both,) = resample([(users + luck[:, None])[..., None]], np.arange(400), draws=20_000)
    expected = alone.drawn.var() + luck.var(ddof=1) / 3
    assert both.drawn.var() == pytest.approx(expected, rel=0.04)
    assert both.means[0] == pytest.approx(users.mean() + luck.mean())


def test_models_of_the_same_trainings_share_their_luck():
    values = np.random.default_rng(1).random((3, 60, 1))
    shifted, users = values + 0.25, np.arange(60)
    one, other = resample([values, shifted], users, draws=200, trainings=[0, 0])
    np.testing.assert_allclose(other.drawn - one.drawn, 0.25)
    one, other = resample([values, shifted], users, draws=200)
    assert np.ptp(other.drawn - one.drawn) > 0.01


def test_equal_seeds_add_nothing():
    values, users = np.random.default_rng(0).random((50, 2)), np.arange(50)
    one, three = resample([values, np.stack([values] * 3)], users, draws=100)
    np.testing.assert_allclose(three.drawn, one.drawn)


def test_a_difference_within_the_luck_of_seeds_is_not_sure():
    rng = np.random.default_rng(3)
    users = rng.standard_normal(500)
    good = users + np.array([0.9, -0.7, 0.4])[:, None]
    assert paired_test(good[:1], users, np.arange(500)).p < 0.01
    result = paired_test(good, users, np.arange(500))
    assert result.difference == pytest.approx(0.2)
    assert result.p > 0.2
    assert result.ci[0] < 0 < result.ci[1]


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
    ci = (0.0, 0.0) if len(values) > 2 else None  # one user
    assert (result.difference, result.p, result.ci, result.p_permutation) == (0.0, 1.0, ci, 1.0)


def test_one_user_tells_nothing():
    result = paired_test([0.9, 0.7], [0.1, 0.3], ["u", "u"], draws=100)
    assert result.difference == pytest.approx(0.6)
    assert (result.p, result.ci, result.p_permutation) == (1.0, None, 1.0)


def test_the_same_sums_in_another_order_are_no_difference():
    values = np.random.default_rng(0).random(300)
    users = np.arange(300) // 3
    rotated = values.reshape(-1, 3)[:, [2, 0, 1]].ravel()
    result = paired_test(values, rotated, users)
    assert (result.difference, result.p, result.p_permutation) == (0.0, 1.0, 1.0)


@given(st.integers(6, 9), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_permutation_is_a_loop_over_signs(user_count, seed):
    sums = np.random.default_rng(seed).integers(-3, 4, size=(user_count, 2)).astype(float)
    rng = np.random.default_rng(seed)
    counts = np.zeros(2)
    for _ in range(60):
        signs = [1 if up else -1 for up in rng.integers(0, 2, size=user_count)]
        flipped = [abs(sum(sign * row[column] for sign, row in zip(signs, sums, strict=True))) for column in range(2)]
        counts += np.array(flipped) >= np.abs(sums.sum(axis=0))
    np.testing.assert_allclose(sign_flip_p(sums, draws=60, seed=seed), (1 + counts) / 61)


@pytest.mark.parametrize(("users", "draws", "error"), [(10, 1023, 0.05), (10, 1024, 1e-12), (15, 30_000, 0.01)])
def test_permutation_comes_close_to_all_sign_vectors_and_counts_them_where_it_can(users, draws, error):
    differences = np.random.default_rng(4).standard_normal(users) + 0.5
    signs = np.array(list(itertools.product([1, -1], repeat=users)))
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert sign_flip_p(differences[:, None], draws=draws)[0] == pytest.approx(exact, abs=error)


@pytest.mark.parametrize("seed", range(5))
def test_five_users_are_never_sure(seed):
    assert sign_flip_p(np.ones((5, 1)), draws=100, seed=seed) == 2 / 32


def test_p_is_never_zero_and_symmetric():
    better = np.full(100, 1.0)
    result = paired_test(better, np.zeros(100), np.arange(100), draws=500)
    assert result.difference == 1.0
    assert result.p == pytest.approx(2 / 501)
    assert paired_test(np.zeros(100), better, np.arange(100), draws=500).p == result.p


def against_zeros(differences, users, **options):
    """Test each column of differences against a model of zeros."""
    return significance.paired_tests([tuple(resample([differences, 0 * differences], users, **options))])[0]


def test_p_below_one_in_twenty_means_an_interval_without_zero():
    rng = np.random.default_rng(1)
    differences = rng.standard_normal((200, 40)) + np.linspace(-0.3, 0.3, 40)
    results = against_zeros(differences, np.arange(200))
    assert {result.p < 0.05 for result in results} == {True, False}
    for result in results:
        if abs(result.p - 0.05) > 0.005:
            assert (result.p < 0.05) == (result.ci[0] > 0 or result.ci[1] < 0)


def test_p_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(2)
    results = against_zeros(rng.standard_normal((150, 400)), np.arange(150), draws=500)
    for p in (np.array([result.p for result in results]), np.array([result.p_permutation for result in results])):
        assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.03)
        assert np.mean(p) == pytest.approx(0.5, abs=0.06)


def test_seed_decides():
    values, users = np.random.default_rng(0).random((30, 1)), np.arange(30)
    np.testing.assert_array_equal(resampled_means(values, users, seed=3), resampled_means(values, users, seed=3))
    assert not np.array_equal(resampled_means(values, users, seed=3), resampled_means(values, users, seed=4))


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
