"""How sure a mean or a difference is: bootstrap and permutation over users, seeds as a second level.

Users are drawn with replacement and bring all their targets along, so several targets of one user never count as
independent evidence. A mean over targets is then a ratio: drawn sums over drawn numbers of targets. All models of one
call see the same draws of users, which is what makes their differences paired.

A model may be several RUNs that differ in their seed alone. Its mean is the mean over them, and each draw also draws
seeds, independently of the users and of other models' seeds (Owen 2007, the pigeonhole bootstrap). Of S seeds S - 1 are
drawn, with replacement, which gives the variance of a mean over S seeds without bias (Rao and Wu 1988); S draws would
give (S - 1) / S of it, half with two seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cftrec.errors import InputError

Floats = NDArray[np.float64]

DRAWS = 2_000
LEVEL = 0.95
BOOTSTRAP = {"draws": DRAWS, "seed": 0, "level": LEVEL, "resampled": "users"}
"""What a table says of intervals that are made as by default."""
_BLOCK = 4_000_000  # counts of drawn users held at once: 32 MB
_CACHED = 2**15  # counts of drawn users made at once: 256 KB
_ROUNDING = 1e-12  # a summed difference below this is rounding, not a difference


@dataclass(frozen=True)
class PairedTest:
    """A paired difference of two means.

    Attributes:
        difference: its size.
        p: two-sided, of the bootstrap; agrees with the interval on whether zero is a likely value. 1 for one user.
        ci: its 95 % percentile interval; None for one user, of whom a bootstrap knows nothing.
        p_permutation: two-sided, of random sign flips of the users' differences.
    """

    difference: float
    p: float
    ci: tuple[float, float] | None
    p_permutation: float


class Resampled(NamedTuple):
    """The means of one model, M metrics, and what they are in bootstrap samples.

    Attributes:
        means: float64 [M]; NaN where no target has a value.
        drawn: float64 [draws, M]; NaN where a sample has no value.
        sums: float64 [U, M], each user's weighted sum of values, the mean over seeds.
    """

    means: Floats
    drawn: Floats
    sums: Floats

    def take(self, metrics: Sequence[int]) -> "Resampled":
        """Return the same of some metrics."""
        return Resampled(self.means[metrics], self.drawn[:, metrics], self.sums[:, metrics])


def user_codes(users: ArrayLike) -> NDArray[np.int64]:
    """Return users of any type as codes 0 .. U - 1, int64 [n]."""
    return np.unique(np.asarray(users), return_inverse=True)[1].astype(np.int64)


def resample(
    models: Sequence[ArrayLike],
    users: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    trainings: Sequence[int] | None = None,
) -> list[Resampled]:
    """Return the means over targets of each model, and those of bootstrap samples of the users and of its seeds.

    Args:
        models: each [n, M], one row a target, one column a metric, or [S, n, M] for S seeds of one method; all see the
            same draws of users. NaN: the target has no value and counts in no mean.
        users: [n] the user of each target, any type.
        weights: [n, M] of the targets in their means; None: all alike.
        draws: number of bootstrap samples.
        seed: of the draws; equal seeds and numbers of users give equal draws of users.
        trainings: which trainings each model's seeds are of: models of the same number see the same draws of seeds,
            others independent ones; None: all others.

    Raises:
        InputError: no target, sizes that differ, or fewer than one draw.
    """
    codes = user_codes(users)
    totals = [_totals(np.asarray(values, dtype=np.float64), codes, weights, draws) for values in models]
    user_count = int(codes.max()) + 1
    luck = range(len(totals)) if trainings is None else trainings
    shares = [_seed_shares(len(seeds), draws, seed, number) for number, seeds in zip(luck, totals, strict=True)]
    drawn = [np.empty((draws, seeds[0].sums.shape[1])) for seeds in totals]
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // user_count)
    for start in range(0, draws, block):
        part = slice(start, min(draws, start + block))
        counts = _multinomial(rng, part.stop - start, user_count)
        for found, share, seeds in zip(drawn, shares, totals, strict=True):
            found[part] = 0.0
            for one, mine in zip(seeds, share[part].T, strict=True):
                # What a seed that is not drawn lacks does not matter; one that is always drawn needs no copy.
                taken = slice(None) if (mine > 0).all() else mine > 0
                found[part][taken] += mine[taken, None] * one.means(counts[taken])
    everybody = np.ones((1, user_count))
    return [
        Resampled(
            np.mean([one.means(everybody)[0] for one in seeds], axis=0),
            found,
            np.mean([one.sums for one in seeds], axis=0),
        )
        for found, seeds in zip(drawn, totals, strict=True)
    ]


def resampled_means(values: ArrayLike, users: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Return the means over targets of bootstrap samples, float64 [draws, M], of one model; see `resample`."""
    return resample([values], users, draws=draws, seed=seed)[0].drawn


def intervals(drawn: Floats, level: float = LEVEL) -> Floats:
    """Return the percentile intervals float64 [M, 2] of drawn means [draws, M]; NaN where no draw has a value."""
    tail = (1 - level) / 2
    bounds = np.full((drawn.shape[1], 2), np.nan)
    known = ~np.isnan(drawn).all(axis=0)
    bounds[known] = np.nanquantile(drawn[:, known], [tail, 1 - tail], axis=0).T
    return bounds


def two_sided_p(drawn: Floats) -> float:
    """Return the two-sided p of drawn differences [draws] against zero.

    Twice the smaller share of draws on either side of zero, each share as (1 + count) / (1 + draws), at most 1: so it
    is never 0, and agrees with the percentile interval on whether zero is a likely value.
    """
    count = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (1 + count) / (1 + drawn.size))


def sign_flip_p(differences: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Return the two-sided p of the paired permutation test: were a user's two results exchanged, would it show?

    Under the null hypothesis that the models are exchangeable, each user's difference is as likely to have the other
    sign. p is the share of random signs whose sum is at least as far from zero, (1 + count) / (1 + draws); of so few
    users that there are no more sign vectors than that, all are counted, and p is exact.

    Args:
        differences: [U, M] each user's summed differences, one column a test; all columns see the same signs.
        draws: number of random sign vectors.
        seed: of the signs.

    Returns:
        float64 [M]; 1 where all differences are zero.
    """
    table = _rounded(np.asarray(differences, dtype=np.float64))
    observed = np.abs(table.sum(axis=0))
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(table))
    every = 2 ** len(table) <= draws
    draws = 2 ** len(table) if every else draws
    count = np.zeros(table.shape[1])
    for start in range(0, draws, block):
        stop = min(start + block, draws)
        if every:
            signs = (np.arange(start, stop)[:, None] >> np.arange(len(table))) & 1
        else:
            signs = rng.integers(0, 2, size=(stop - start, len(table)))
        flipped = np.abs((2.0 * signs - 1) @ table)
        count += (flipped >= observed * (1 - _ROUNDING) - _ROUNDING).sum(axis=0)
    return count / draws if every else (1 + count) / (1 + draws)


def paired_test(a: ArrayLike, b: ArrayLike, users: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> PairedTest:
    """Test the difference of two models' means (a - b) on the same targets.

    Args:
        a: [n] a metric of each target under the first model, or [S, n] under each of its seeds.
        b: the same under the second model, same order of targets.
        users: [n] the user of each target.
        draws: number of bootstrap samples and of sign flips.
        seed: of the draws.

    Returns:
        The difference, its two-sided p (1 for identical inputs and for one user, never 0) by bootstrap and by
        permutation, and its 95 % interval (None for one user).

    Raises:
        InputError: no target or sizes that differ.
    """
    first, second = np.asarray(a, dtype=np.float64)[..., None], np.asarray(b, dtype=np.float64)[..., None]
    if first.shape[-2:] != second.shape[-2:]:
        raise InputError(
            f"a paired test needs the same targets twice, got {first.shape[:-1]} and {second.shape[:-1]} values"
        )
    one, other = resample([first, second], users, draws=draws, seed=seed)
    return paired_tests([(one, other)], seed=seed)[0][0]


def paired_tests(pairs: Sequence[tuple[Resampled, Resampled]], *, seed: int = 0) -> list[list[PairedTest]]:
    """Test the difference of each metric between two models (first - second), pair by pair.

    The interval and `p` speak of users and, where a model has several, of seeds; `p_permutation` of users alone, with
    the seeds as they are.

    Args:
        pairs: models of one call of `resample`, whose draws they share.
        seed: of the sign flips.

    Returns:
        For each pair its tests, one a metric.
    """
    flips = np.concatenate([a.sums - b.sums for a, b in pairs], axis=1)
    permuted = iter(sign_flip_p(flips, draws=len(pairs[0][0].drawn), seed=seed).tolist())
    alone = len(flips) == 1
    return [
        [
            PairedTest(float(size), 1.0, None, next(permuted))
            if alone
            else PairedTest(float(size), two_sided_p(drawn), (float(low), float(high)), next(permuted))
            for size, drawn, (low, high) in zip(
                _rounded(a.means - b.means), differences.T, intervals(differences), strict=True
            )
        ]
        for a, b in pairs
        for differences in (_rounded(a.drawn - b.drawn),)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm), in the given order."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return [float(value) for value in adjusted[np.argsort(order, kind="stable")]]


class _Totals(NamedTuple):
    """One seed's weighted sums by user; the D different columns of sizes are kept once."""

    sums: Floats  # [U, M] of values
    sizes: Floats  # [U, D] of weights
    column: NDArray[np.int64]  # [M] which sizes a metric has

    def means(self, counts: Floats) -> Floats:
        """Return the means of users taken so often, float64 [draws, M] of counts [draws, U]."""
        with np.errstate(invalid="ignore"):
            return (counts @ self.sums) / (counts @ self.sizes)[:, self.column]


def _totals(values: Floats, codes: NDArray[np.int64], weights: ArrayLike | None, draws: int) -> list[_Totals]:
    """Return the totals of each seed."""
    seeds = values if values.ndim == 3 else values[None]
    _check(seeds, codes, draws)
    weight = np.ones(seeds.shape[1:]) if weights is None else np.asarray(weights, dtype=np.float64)
    totals = []
    for one in seeds:
        counted = np.where(np.isnan(one), 0.0, weight)
        distinct, column = np.unique(counted, axis=1, return_inverse=True)
        sums = _by_user(codes, np.nan_to_num(one) * counted)
        totals.append(_Totals(_rounded(sums), _by_user(codes, distinct), column.ravel()))
    return totals


def _by_user(codes: NDArray[np.int64], values: Floats) -> Floats:
    """Return the sums of each user's rows, [U, M]."""
    return np.stack([np.bincount(codes, weights=column) for column in values.T], axis=1)


def _rounded(values: Floats) -> Floats:
    return np.where(np.abs(values) < _ROUNDING, 0.0, values)


def _seed_shares(seeds: int, draws: int, seed: int, model: int) -> Floats:
    """Return the share of each seed in each draw of a model, [draws, S]; rows sum to 1."""
    if seeds == 1:
        return np.ones((draws, 1))
    rng = np.random.default_rng((seed, 1 + model))
    return (rng.integers(0, seeds, size=(draws, seeds - 1))[:, :, None] == np.arange(seeds)).mean(axis=1)


def _multinomial(rng: np.random.Generator, draws: int, users: int) -> Floats:
    """Count how often each user is drawn, float64 [draws, users].

    Counting drawn indices beats `rng.multinomial`, a few draws at a time, whose counts stay in the processor's cache.
    """
    counts = np.empty((draws, users))
    step = max(1, _CACHED // users)
    for start in range(0, draws, step):
        part = counts[start : start + step]
        drawn = rng.integers(0, users, size=part.shape)
        drawn += np.arange(len(part))[:, None] * users
        part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)
    return counts


def _check(values: Floats, users: NDArray[np.int64], draws: int) -> None:
    if values.ndim != 3 or users.shape != values.shape[1:2]:
        shape = values.shape[1:] if values.shape[0] == 1 else values.shape
        raise InputError(f"the bootstrap needs values [n, metrics] and users [n], got {shape} and {users.shape}")
    if users.size == 0:
        raise InputError("the bootstrap has no target to draw from; choose a split that holds events")
    if draws < 1:
        raise InputError(f"draws is {draws}; the bootstrap needs at least 1")
