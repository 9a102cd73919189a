"""What the history does to a model's answer: log p by token position, and the popularity of what is recommended."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from cftrec.errors import InputError

Schema = dict[str, pl.DataType | type[pl.DataType]]

GROUPS = 5
POSITIONS_SCHEMA: Schema = {
    "position": pl.Int32,
    "with_history": pl.Float64,
    "without_history": pl.Float64,
    "count": pl.Int64,
}


def by_position(
    with_history: Sequence[NDArray[np.floating]], without_history: Sequence[NDArray[np.floating]]
) -> pl.DataFrame:
    """Average the targets' token log p by position in the title.

    Args:
        with_history: for each target, float [T] log p (nats) of its tokens given the history.
        without_history: the same given the model's own prompt without history (the prior named "counterfactual").

    Returns:
        One row a position: `position` (from 1), the means `with_history` and `without_history` (nats), and `count`,
        the number of targets that have such a token.

    Raises:
        InputError: the two differ in a target's number of tokens.
    """
    lengths = np.array([array.size for array in with_history], dtype=np.int64)
    if lengths.tolist() != [array.size for array in without_history]:
        raise InputError("log p with and without history differ in their numbers of tokens; score the same targets")
    if not lengths.sum():
        return pl.DataFrame(schema=POSITIONS_SCHEMA)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    position = np.arange(starts.size) - starts
    count = np.bincount(position)
    columns = {
        "with_history": np.bincount(position, weights=np.concatenate(with_history)) / count,
        "without_history": np.bincount(position, weights=np.concatenate(without_history)) / count,
    }
    return pl.DataFrame({"position": np.arange(1, count.size + 1), **columns, "count": count}, schema=POSITIONS_SCHEMA)


def popularity_groups(counts: ArrayLike, groups: int = GROUPS) -> NDArray[np.int8]:
    """Cut the items into groups of equal training mass, 0 = the few most frequent items.

    An item belongs to the group in which its share begins, so the groups' masses are equal up to one item's share;
    items without a training event are in the last group.

    Args:
        counts: int [I] training events of each item.
        groups: number of groups.

    Returns:
        int8 [I], 0 .. groups - 1.
    """
    count = np.asarray(counts, dtype=np.int64)
    order = np.argsort(-count, kind="stable")
    begin = np.cumsum(count[order]) - count[order]
    group = np.full(count.size, groups - 1, dtype=np.int8)
    taken = count[order] > 0
    group[order[taken]] = groups * begin[taken] // max(1, int(count.sum()))
    return group


def group_shares(items: ArrayLike, group: NDArray[np.int8], groups: int = GROUPS) -> NDArray[np.float64]:
    """Return the share of item indices (any number, -1 ignored) in each group, float64 [groups]; zeros if none."""
    index = np.asarray(items, dtype=np.int64).ravel()
    counts = np.bincount(group[index[index >= 0]], minlength=groups)
    return counts / max(1, counts.sum())
