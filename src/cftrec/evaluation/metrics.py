"""Ranking metrics of held-out targets: HR, NDCG and MRR, per target and in the mean.

Each target is one held-out item, so the ideal DCG is 1 and NDCG@k is 1 / log2(1 + rank) for a rank of at most k.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cftrec.errors import InputError

CUTOFFS = (1, 5, 10, 20)
KINDS = ("HR", "NDCG", "MRR")
METRICS = tuple(f"{kind}@{cutoff}" for kind in KINDS for cutoff in CUTOFFS)


def as_ranks(ranks: pl.Series | NDArray[np.integer] | Sequence[int | None]) -> NDArray[np.int64]:
    """Return ranks as int64 [n], 1 = first place and 0 = not in the list (null becomes 0).

    Raises:
        InputError: a rank is negative or no whole number.
    """
    series = ranks if isinstance(ranks, pl.Series) else pl.Series("rank", ranks, dtype=pl.Int64)
    if not (series.dtype.is_integer() or series.dtype == pl.Null):
        raise InputError(f"ranks are {series.dtype}, where whole numbers (or null: not in the list) are needed")
    values = series.cast(pl.Int64).fill_null(0).to_numpy()
    if values.size and values.min() < 0:
        raise InputError(f"row {int(values.argmin())}: rank {int(values.min())} is negative; ranks start at 1")
    return values


def per_target(ranks: pl.Series | NDArray[np.integer] | Sequence[int | None]) -> dict[str, NDArray[np.float64]]:
    """Return every metric of every target.

    Args:
        ranks: [n] ranks from 1; null or 0 = not in the list, a miss at every cut-off.

    Returns:
        Metric name ("HR@10") -> float64 [n], in the order of `METRICS`.

    Raises:
        InputError: a rank is negative or no whole number.
    """
    rank = as_ranks(ranks)
    place = np.maximum(rank, 1).astype(np.float64)
    gains = {"HR": np.ones_like(place), "NDCG": 1 / np.log2(1 + place), "MRR": 1 / place}
    hits = {cutoff: (rank >= 1) & (rank <= cutoff) for cutoff in CUTOFFS}
    return {f"{kind}@{cutoff}": np.where(hits[cutoff], gains[kind], 0.0) for kind in KINDS for cutoff in CUTOFFS}


def means(values: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Return the mean over targets of each metric, a flat dict such as {"HR@10": 0.1}.

    Raises:
        InputError: there is no target.
    """
    if any(array.size == 0 for array in values.values()):
        raise InputError("no target to measure: the split holds no event; choose another split")
    return {name: float(array.mean()) for name, array in values.items()}
