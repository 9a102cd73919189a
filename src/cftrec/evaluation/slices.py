"""Metrics by kind of target: how long the user's history is, how popular the target is, whether it was in training."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from cftrec.evaluation.effect_summary import length_parts
from cftrec.evaluation.effects import GROUPS, popularity_groups
from cftrec.evaluation.measures import Measures, estimate, measure, padded
from cftrec.evaluation.significance import DRAWS


class Slice(NamedTuple):
    """The targets of one kind: what was asked, the answer, and a row a target, bool [n]."""

    name: str
    value: str
    rows: NDArray[np.bool_]


def evaluation_table(ranks: pl.DataFrame, item_ids: Sequence[str], counts: ArrayLike) -> list[dict[str, Any]]:
    """Return one RUN's table: a row of all targets (slice and value "all"), then a row a slice; see `slice_rows`.

    Args:
        ranks: one row a target, `evaluate.RANKS_SCHEMA`.
        item_ids: the catalogue, in item order, distinct.
        counts: int [I] training events of each item.
    """
    measures = measure(ranks, item_ids, counts)
    (row,), _ = estimate([[measures]])
    sizes = {"targets": len(measures.users), "users": int(measures.users.max()) + 1}
    cut = slice_rows(slices(ranks, item_ids, counts), [[measures]])
    return [{"slice": "all", "value": "all"} | sizes | row, *(row for (row,) in cut)]


def slices(ranks: pl.DataFrame, item_ids: Sequence[str], counts: ArrayLike) -> list[Slice]:
    """Cut the targets of a table of ranks in three ways; slices without a target are left out.

    - "history length": five parts of about equal size, equal lengths never apart ("4", "5-9", ...);
    - "target popularity": the five groups of equal training mass, "1" (the few most popular items) to "5";
    - "cold target": "yes" where the target has no training event or is not in the catalogue, else "no". Such targets
      are in popularity group 5, too.

    Args:
        ranks: one row a target with the columns `target` and `history_length`.
        item_ids: the catalogue, in item order, distinct.
        counts: int [I] training events of each item.
    """
    lengths = ranks["history_length"].to_numpy()
    count = np.append(np.asarray(counts), 0)  # the extra cell serves targets outside the catalogue
    target = padded(ranks.select(pl.concat_list("target")).to_series(), item_ids, 1)[:, 0]
    group = np.append(popularity_groups(count[:-1]), GROUPS - 1)[target]
    part = length_parts(lengths)
    found = [Slice("history length", _span(lengths[part == number]), part == number) for number in np.unique(part)]
    found += [Slice("target popularity", str(number + 1), group == number) for number in range(GROUPS)]
    found += [Slice("cold target", answer, (count[target] == 0) == cold) for answer, cold in (("no", 0), ("yes", 1))]
    return [one for one in found if one.rows.any()]


def slice_rows(
    cut: Sequence[Slice],
    models: Sequence[Sequence[Measures]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> list[list[dict[str, Any]]]:
    """Return for each slice one row a model: `slice`, `value`, `targets`, `users`, each metric and its interval.

    Users are drawn from those who have a target in the slice. Coverage and Gini, which grow with the number of lists,
    are left out.

    Args:
        cut: the slices, of the models' targets.
        models: each a sequence of measures, one a seed, of the same targets in the same order.
        draws: bootstrap samples.
        seed: of the draws.
        advance: called after each slice.
    """
    table = []
    for name, value, rows in cut:
        inside = [[one.of(rows) for one in seeds] for seeds in models]
        estimates, _ = estimate(inside, draws=draws, seed=seed, together=False)
        sizes = {"targets": int(rows.sum()), "users": int(inside[0][0].users.max()) + 1}
        table.append([{"slice": name, "value": value} | sizes | row for row in estimates])
        advance()
    return table


def _span(lengths: NDArray[np.int64]) -> str:
    low, high = int(lengths.min()), int(lengths.max())
    return str(low) if low == high else f"{low}-{high}"
