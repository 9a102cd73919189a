"""How sure a mean or a difference is: the bootstrap over users.

Users are drawn with replacement and bring all their targets along, so several targets of one user never count as
independent evidence. A mean over targets is then a ratio: drawn sums over drawn numbers of targets. All columns of one
call see the same draws, which is what makes a difference of two models a paired one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cftrec.errors import InputError

DRAWS = 2_000
LEVEL = 0.95
_BLOCK = 4_000_000  # drawn users held at once: 32 MB of draws and as much of counts
_ROUNDING = 1e-12  # a user's summed difference below this is rounding, not a difference


@dataclass(frozen=True)
class PairedTest:
    """A paired difference of two means: its size, its two-sided p and its interval."""

    difference: float
    p: float
    ci: tuple[float, float]


def user_codes(users: ArrayLike) -> NDArray[np.int64]:
    """Return users of any type as codes 0 .. U - 1, int64 [n]."""
    return np.unique(np.asarray(users), return_inverse=True)[1].astype(np.int64)


def resampled_means(values: ArrayLike, users: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """Return the means over targets of bootstrap samples of the users.

    Args:
        values: [n, M] one row a target, one column a metric; all columns see the same draws.
        users: [n] the user of each target, any type.
        draws: number of bootstrap samples.
        seed: of the draws; equal seeds and numbers of users give equal draws.

    Returns:
        float64 [draws, M].

    Raises:
        InputError: no target, sizes that differ, or fewer than one draw.
    """
    matrix = np.asarray(values, dtype=np.float64)
    _check(matrix, np.asarray(users), draws)
    codes = user_codes(users)
    sizes = np.bincount(codes).astype(np.float64)
    sums = np.stack([np.bincount(codes, weights=column, minlength=sizes.size) for column in matrix.T], axis=1)
    sums[np.abs(sums) < _ROUNDING] = 0.0
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // sizes.size)
    parts = []
    for start in range(0, draws, block):
        counts = _multinomial(rng, min(block, draws - start), sizes.size)
        parts.append((counts @ sums) / (counts @ sizes)[:, None])
    return np.concatenate(parts)


def intervals(drawn: NDArray[np.float64], level: float = LEVEL) -> NDArray[np.float64]:
    """Return the percentile intervals float64 [M, 2] of drawn means [draws, M]."""
    tail = (1 - level) / 2
    return np.quantile(drawn, [tail, 1 - tail], axis=0).T


def two_sided_p(drawn: NDArray[np.float64]) -> float:
    """Return the two-sided p of drawn differences [draws] against zero.

    Twice the smaller share of draws on either side of zero, each share as (1 + count) / (1 + draws), at most 1: so it
    is never 0, and agrees with the percentile interval on whether zero is a likely value.
    """
    count = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (1 + count) / (1 + drawn.size))


def paired_test(a: ArrayLike, b: ArrayLike, users: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> PairedTest:
    """Test the difference of two models' means (a - b) on the same targets.

    Args:
        a: [n] a metric of each target under the first model.
        b: [n] the same under the second model, same order.
        users: [n] the user of each target.
        draws: number of bootstrap samples of the users.
        seed: of the draws.

    Returns:
        The difference, its two-sided p (1 for identical inputs, never 0) and its 95 % interval.

    Raises:
        InputError: no target or sizes that differ.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise InputError(f"a paired test needs the same targets twice, got {first.shape} and {second.shape} values")
    return paired_tests((first - second)[:, None], users, draws=draws, seed=seed)[0]


def paired_tests(
    differences: ArrayLike, users: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> tuple[PairedTest, ...]:
    """Test each column of per-target differences [n, M] against zero; see `paired_test`."""
    matrix = np.asarray(differences, dtype=np.float64)
    drawn = resampled_means(matrix, users, draws=draws, seed=seed)
    return tuple(
        PairedTest(float(mean), two_sided_p(column), (float(low), float(high)))
        for mean, column, (low, high) in zip(matrix.mean(axis=0), drawn.T, intervals(drawn), strict=True)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm), in the given order."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return [float(value) for value in adjusted[np.argsort(order, kind="stable")]]


def _multinomial(rng: np.random.Generator, draws: int, users: int) -> NDArray[np.float64]:
    """Count how often each user is drawn, float64 [draws, users]; counting drawn indices beats `rng.multinomial`."""
    drawn = rng.integers(0, users, size=(draws, users))
    drawn += np.arange(draws)[:, None] * users
    return np.bincount(drawn.ravel(), minlength=draws * users).reshape(draws, users).astype(np.float64)


def _check(values: NDArray[np.float64], users: NDArray[np.generic], draws: int) -> None:
    if values.ndim != 2 or users.shape != values.shape[:1]:
        raise InputError(f"the bootstrap needs values [n, metrics] and users [n], got {values.shape} and {users.shape}")
    if values.shape[0] == 0:
        raise InputError("the bootstrap has no target to draw from; choose a split that holds events")
    if draws < 1:
        raise InputError(f"draws is {draws}; the bootstrap needs at least 1")
