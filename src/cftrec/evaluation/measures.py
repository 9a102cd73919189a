"""All metrics of one table of ranks (`evaluate.RANKS_SCHEMA`), and their means with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from cftrec.errors import InputError
from cftrec.evaluation.lists import LIST_METRICS, TOGETHER, Estimate, all_lists, per_list
from cftrec.evaluation.metrics import CUTOFFS, METRICS, as_ranks, per_target
from cftrec.evaluation.significance import DRAWS, Resampled, intervals, resample, user_codes

RECALL = tuple(f"Recall@{cutoff}" for cutoff in CUTOFFS)
COLUMNS = METRICS + RECALL + LIST_METRICS
"""Metrics that are means over targets, in the order of a table's columns."""
ALL_METRICS = COLUMNS + TOGETHER
TESTED = ("HR@10", "NDCG@10", "MRR@10")
"""Metrics whose differences between models are tested."""
_NORMAL = 1.959964  # standard errors in half a 95 % interval


@dataclass(frozen=True, eq=False)
class Measures:
    """The metrics of n targets, each with a list.

    Attributes:
        values: float64 [n, M], one column each of `COLUMNS`; NaN: not defined for this target. A target's recall is
            its hit, see `weights`.
        users: int64 [n] user codes 0 .. U - 1.
        items: int64 [n, 20] the first items of the lists, padded with -1.
        catalogue: I, the number of items that could have been recommended.
    """

    values: NDArray[np.float64]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    catalogue: int

    @property
    def weights(self) -> NDArray[np.float64]:
        """What each target counts in each mean, [n, M].

        1, but for recall: the share found of a user's targets, averaged over users, so that every user counts alike. HR
        counts every target alike; with one target a user the two are equal.
        """
        weights = np.ones_like(self.values)
        recall = [COLUMNS.index(name) for name in RECALL]
        weights[:, recall] = 1 / np.bincount(self.users)[self.users, None]
        return weights

    def of(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Measures":
        """Return those of some targets."""
        return Measures(self.values[rows], user_codes(self.users[rows]), self.items[rows], self.catalogue)


def measure(ranks: pl.DataFrame, item_ids: Sequence[str], counts: ArrayLike) -> Measures:
    """Return all metrics of a table of ranks.

    Args:
        ranks: one row a target with the columns `user`, `rank` (from 1; null: not in the list), `items` and `history`
            (lists of item ids; ids outside the catalogue are passed over).
        item_ids: the catalogue, in item order, distinct.
        counts: int [I] training events of each item.

    Raises:
        InputError: the table is empty, or a rank is negative or no whole number.
    """
    if ranks.is_empty():
        raise InputError("no target to measure: the split holds no event; choose another split")
    items = padded(ranks["items"], item_ids, max(CUTOFFS))
    accuracy = per_target(as_ranks(ranks["rank"]))
    recall = {name: accuracy[name.replace("Recall", "HR")] for name in RECALL}
    columns = accuracy | recall | per_list(items, counts, padded(ranks["history"], item_ids))
    values = np.stack([columns[name] for name in COLUMNS], axis=1)
    return Measures(values, user_codes(ranks["user"].to_numpy()), items, len(item_ids))


def padded(lists: pl.Series, item_ids: Sequence[str], width: int | None = None) -> NDArray[np.int64]:
    """Return lists of item ids as item indices, int64 [n, width], padded with -1; unknown ids become -1 in place.

    Args:
        lists: [n] lists of strings.
        item_ids: the catalogue, in item order, distinct.
        width: longest list kept; longer ones lose their ends. None: as long as the longest.
    """
    kept = lists if width is None else lists.list.head(width)
    lengths = kept.list.len().fill_null(0).to_numpy().astype(np.int64)
    index = kept.explode(empty_as_null=False, keep_nulls=False).cast(pl.Enum(item_ids), strict=False).to_physical()
    table = np.full((len(lengths), int(lengths.max(initial=0)) if width is None else width), -1, dtype=np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = index.cast(pl.Int64).fill_null(-1).to_numpy()
    return table


def estimate(
    models: Sequence[Sequence[Measures]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    together: bool = True,
    trainings: Sequence[int] | None = None,
) -> tuple[list[dict[str, Any]], list[Resampled]]:
    """Return each model's row of a table, {"HR@10": mean, "HR@10_ci": [low, high], ...}, and its draws of `COLUMNS`.

    Intervals are 95 %: bootstrap over users (and seeds), for coverage and Gini the jackknife's normal ones. With fewer
    than two users there is none (null). A metric without any value is left out.

    Args:
        models: each a sequence of measures, one a seed, of the same targets in the same order.
        draws: bootstrap samples.
        seed: of the draws.
        together: with coverage and Gini.
        trainings: which trainings each model's seeds are of, as for `resample`.
    """
    first = models[0][0]
    values = [np.stack([one.values for one in seeds]) for seeds in models]
    resampled = resample(values, first.users, first.weights, draws=draws, seed=seed, trainings=trainings)
    rows = []
    for seeds, found in zip(models, resampled, strict=True):
        estimates = _means(found) | (_of_all_lists(seeds) if together else {})
        row: dict[str, Any] = {}
        for name, (value, bounds) in estimates.items():
            row |= {name: value, f"{name}_ci": None if first.users.max() == 0 else bounds}
        rows.append(row)
    return rows, resampled


def _means(found: Resampled) -> dict[str, tuple[float, list[float] | None]]:
    """Return mean and interval of each metric that has a value."""
    bounds = intervals(found.drawn).tolist()
    known = [column for column, mean in enumerate(found.means) if not np.isnan(mean)]
    return {COLUMNS[column]: (float(found.means[column]), bounds[column]) for column in known}


def _of_all_lists(seeds: Sequence[Measures]) -> dict[str, tuple[float, list[float] | None]]:
    """Return value and interval of coverage and Gini; nothing where a seed recommends nothing."""
    found = [all_lists(one.items, one.users, one.catalogue) for one in seeds]
    estimates: dict[str, tuple[float, list[float] | None]] = {}
    for name in TOGETHER if all(found) else ():
        value, error = _over_seeds([one[name] for one in found])
        bounds = [max(0.0, value - _NORMAL * error), min(1.0, value + _NORMAL * error)]
        estimates[name] = (value, None if np.isnan(error) else bounds)
    return estimates


def _over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """Average over seeds; their users are the same, so the users' errors do not shrink, and the seeds' own one adds."""
    values = [one.value for one in estimates]
    spread = np.var(values, ddof=1) / len(values) if len(values) > 1 else 0.0
    return Estimate(fmean(values), float(np.sqrt(fmean(one.error for one in estimates) ** 2 + spread)))
