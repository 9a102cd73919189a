"""The popularity baseline: everybody gets the most frequent training items that they do not have yet."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cftrec.errors import InputError

_BLOCK = 4_000_000  # cells of the [targets, candidates] table held at once


@dataclass(frozen=True)
class Popular:
    """The baseline's answer to n targets: its lists and the exact rank of each target in the whole catalogue."""

    items: NDArray[np.int32]  # [n, k] item index, padded with -1
    ranks: NDArray[np.int64]  # [n] from 1; 0 where the target is not in the catalogue


def rank_by_popularity(counts: ArrayLike, histories: Sequence[ArrayLike], targets: ArrayLike, k: int = 20) -> Popular:
    """Rank the catalogue by training counts for each target, the user's history left out except the target itself.

    Args:
        counts: int [I] training events of each item; equal counts stand in item order.
        histories: n arrays of item indices, any length, repeats allowed.
        targets: int [n] item index of each target, -1 where the catalogue does not hold it.
        k: length of the lists.

    Returns:
        Lists and ranks; a list is shorter than k (padded) where the catalogue has fewer items left.

    Raises:
        InputError: k below 1, or the numbers of histories and targets differ.
    """
    count, target = np.asarray(counts), np.asarray(targets, dtype=np.int64)
    if k < 1:
        raise InputError(f"k is {k}; a list needs at least 1 item")
    if len(histories) != target.size:
        raise InputError(f"{len(histories)} histories for {target.size} targets; each target needs one")
    order = np.argsort(-count, kind="stable")
    place = np.empty(count.size + 1, dtype=np.int64)  # the extra cell serves target -1
    place[order] = np.arange(count.size)
    place[-1] = -1
    rows, seen = _distinct(histories, target, count.size)
    ahead = np.bincount(rows[place[seen] < place[target[rows]]], minlength=target.size)
    ranks = np.where(target >= 0, 1 + place[target] - ahead, 0)
    return Popular(_lists(order, rows, place[seen], target.size, k), ranks)


def _distinct(
    histories: Sequence[ArrayLike], targets: NDArray[np.int64], items: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (row, item) of every distinct item that is left out: histories without repeats and without the target."""
    arrays = [np.asarray(history, dtype=np.int64) for history in histories]
    rows = np.repeat(np.arange(len(arrays)), [array.size for array in arrays])
    seen = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)
    keys = np.unique((rows * items + seen)[seen != targets[rows]])
    return keys // items, keys % items


def _lists(
    order: NDArray[np.int64], rows: NDArray[np.int64], places: NDArray[np.int64], n: int, k: int
) -> NDArray[np.int32]:
    """Return each row's first k items of `order` whose places are not left out, int32 [n, k]."""
    lists = np.full((n, k), -1, dtype=np.int32)
    bounds = np.searchsorted(rows, np.arange(n + 1))
    longest = int(np.diff(bounds).max(initial=0))
    width = min(order.size, k + longest)  # no list needs to look further down
    block = max(1, _BLOCK // max(1, width))
    for start in range(0, n, block):
        stop = min(n, start + block)
        inside = slice(bounds[start], bounds[stop])
        near = places[inside] < width
        free = np.ones((stop - start, width), dtype=bool)
        free[rows[inside][near] - start, places[inside][near]] = False
        slot = np.cumsum(free, axis=1) - 1
        row, place = np.nonzero(free & (slot < k))
        lists[start + row, slot[row, place]] = order[place]
    return lists
