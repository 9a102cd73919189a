"""Metrics of what is recommended, whoever it is recommended to: popularity, novelty, shift, coverage and Gini.

The first three are means over lists, so `per_list` gives a value a list; coverage and Gini belong to all lists
together. A bootstrap sample holds about 63 % of the users, so its lists cover less and its percentile interval lies
beside the value: the errors of these two are the jackknife's.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cftrec.evaluation.effects import popularity_groups
from cftrec.evaluation.metrics import CUTOFFS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KINDS = ("popularity", "novelty", "shift")
LIST_METRICS = tuple(f"{kind}@{cutoff}" for kind in KINDS for cutoff in CUTOFFS)
TOGETHER = tuple(f"{kind}@{cutoff}" for kind in ("coverage", "Gini") for cutoff in CUTOFFS)


class Estimate(NamedTuple):
    """A metric of all lists together and its standard error over users, NaN unless two users have a list."""

    value: float
    error: float


def per_list(items: ArrayLike, counts: ArrayLike, histories: ArrayLike) -> dict[str, Floats]:
    """Return the metrics that each list has by itself.

    - popularity@k: mean number of training events of the first k items;
    - novelty@k: their mean self-information, -log2 of an item's share of all training events, in bits; an item
      without an event counts as one with a single event;
    - shift@k: the mean popularity group of the first k items less that of the user's history, in groups (1 to 5 of
      equal training mass, `popularity_groups`): above 0 the list is rarer than what the user chose.

    A list shorter than k is averaged over the items that it has.

    Args:
        items: int [n, L] item indices, best first, padded with -1.
        counts: int [I] training events of each item.
        histories: int [n, H] item indices of each user's history, padded with -1.

    Returns:
        Metric name -> float64 [n], in the order of `LIST_METRICS`; NaN where the list, or for the shift the history, is
        empty.
    """
    lists, seen = np.asarray(items), np.asarray(histories)
    count = np.asarray(counts, dtype=np.float64)
    group = popularity_groups(count).astype(np.float64)
    information = np.log2(max(1.0, count.sum())) - np.log2(np.maximum(count, 1))
    own = _running_means(group, seen, (seen.shape[1],))[:, 0]
    found = {
        "popularity": _running_means(count, lists, CUTOFFS).T,
        "novelty": _running_means(information, lists, CUTOFFS).T,
        "shift": _running_means(group, lists, CUTOFFS).T - own,
    }
    return {f"{kind}@{cutoff}": found[kind][place] for kind in KINDS for place, cutoff in enumerate(CUTOFFS)}


def all_lists(items: ArrayLike, users: ArrayLike, catalogue: int) -> dict[str, Estimate]:
    """Return the metrics that only all lists together have.

    - coverage@k: share of the catalogue that is in the first k of some list;
    - Gini@k: inequality of how often each item of the catalogue is in the first k, 0 (all alike) to 1 - 1 / I.

    The standard errors are those of the jackknife, which leaves out one user with all lists; by Efron and Stein (1981)
    they are too large rather than too small.

    Args:
        items: int [n, L] item indices, best first, padded with -1.
        users: int [n] user codes 0 .. U - 1.
        catalogue: I, the number of items.

    Returns:
        Metric name -> estimate, in the order of `TOGETHER`; empty where no list has an item.
    """
    lists, codes = np.asarray(items), np.asarray(users)
    if not (lists[:, :1] >= 0).any():
        return {}
    found = {}
    for cutoff in CUTOFFS:
        top = lists[:, :cutoff]
        row, place = np.nonzero(top >= 0)
        user, item = codes[row], top[row, place].astype(np.int64)
        found[f"coverage@{cutoff}"] = _coverage(user, item, codes.max() + 1, catalogue)
        found[f"Gini@{cutoff}"] = _gini(user, item, codes.max() + 1, catalogue)
    return {name: found[name] for name in TOGETHER}


def _running_means(values: Floats, items: NDArray[np.integer], cutoffs: tuple[int, ...]) -> Floats:
    """Return the means of `values` over the first k items of each list, float64 [n, cutoffs]; NaN over none."""
    n, longest = items.shape
    sums, sizes = np.zeros((n, longest + 1)), np.zeros((n, longest + 1))
    there = items >= 0
    np.cumsum(np.where(there, values[items], 0.0), axis=1, out=sums[:, 1:])
    np.cumsum(there, axis=1, out=sizes[:, 1:])
    ends = np.minimum(cutoffs, longest)
    with np.errstate(invalid="ignore"):
        return sums[:, ends] / sizes[:, ends]


def _coverage(user: Ints, item: Ints, users: int, catalogue: int) -> Estimate:
    """Without a user, those items are no longer covered that no other user is recommended."""
    keys = np.unique(user * catalogue + item)
    carriers = np.bincount(keys % catalogue, minlength=catalogue)
    alone = np.bincount(keys[carriers[keys % catalogue] == 1] // catalogue, minlength=users)
    covered = (carriers > 0).sum()
    return _jackknife(covered / catalogue, (covered - alone) / catalogue)


def _gini(user: Ints, item: Ints, users: int, catalogue: int) -> Estimate:
    """G = sum over v >= 1 of N (I - N) / (I sum of counts), N the number of items recommended v times or more.

    A user's m recommendations of an item of count c take it out of N at v = c, c - 1, ..., c - m + 1.
    """
    counts = np.bincount(item, minlength=catalogue)
    at_least = np.bincount(counts)[::-1].cumsum()[::-1]
    inequality = (at_least * (catalogue - at_least))[1:].sum()
    keys = np.sort(user * catalogue + item)
    first = np.searchsorted(keys, keys)
    level = counts[keys % catalogue] - (np.arange(keys.size) - first)
    places, lost = np.unique(keys // catalogue * at_least.size + level, return_counts=True)
    change = lost * (2 * at_least[places % at_least.size] - catalogue - lost)
    left = inequality + np.bincount(places // at_least.size, weights=change, minlength=users)
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing is left where one user has all lists
        without = left / (catalogue * (item.size - np.bincount(user, minlength=users)))
    return _jackknife(inequality / (catalogue * item.size), without)


def _jackknife(value: float, without: Floats) -> Estimate:
    """Return a value with its standard error, from the values without each user."""
    error = np.sqrt((without.size - 1) * without.var()) if without.size > 1 else np.nan
    return Estimate(float(value), float(error))
