"""The history's effect on what a model says of the true next title: log p(y | h) - log prior(y), for a named prior.

Both are probabilities under the catalogue softmax, over the same set of items, whatever the RUN recommends by; so the
effect is a difference of log probabilities, and it adds up token by token. Tokens that the catalogue forces have no
effect and are left out: positions count the choices on the way to the title, from 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from cftrec.data.dataset import Dataset
from cftrec.decoding import Prior
from cftrec.evaluation.cases import Cases, cases_of, split_targets
from cftrec.evaluation.effect_summary import summarise
from cftrec.evaluation.parts import Arrays, Parts
from cftrec.evaluation.ranker import Scorer
from cftrec.ragged import Ragged
from cftrec.recommender import BATCH

Schema = dict[str, pl.DataType | type[pl.DataType]]

GROUPS = 5
FAVOURITES = (10, 50)
"""How many of the titles that the prior likes best count as history-free favourites."""
EFFECTS_SCHEMA: Schema = {
    "user": pl.String,
    "target": pl.String,
    "history_length": pl.Int64,
    "group": pl.Int8,
    "effect": pl.Float64,
    "token": pl.List(pl.Int32),
    "log_p": pl.List(pl.Float64),
    "log_prior": pl.List(pl.Float64),
    "mass_10": pl.Float64,
    "hit_10": pl.Boolean,
    "mass_50": pl.Float64,
    "hit_50": pl.Boolean,
}
_BATCH = 2 * BATCH  # targets measured at once


@dataclass(frozen=True)
class Effects:
    """Measured effects.

    Attributes:
        table: one row a target (`EFFECTS_SCHEMA`): `group` of popularity, 1 (the few most frequent items) to 5;
            `effect` in nats; `token`, the place in the title (from 1) of each token at which the catalogue leaves a
            choice, and its `log_p` with the history and `log_prior` (nats); `mass_10`, the probability that the model
            gives, with the history, to the prior's ten favourite titles, and `hit_10`, whether the target is among
            them; the same for 50.
        summary: what effects.json holds (`effect_summary.summarise`).
    """

    table: pl.DataFrame
    summary: dict[str, Any]


def measure_effects(
    recommender: Scorer,
    dataset: Dataset,
    split: str = "test",
    prior: str = "counts",
    *,
    targets: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Effects:
    """Measure the history's effect on a split's targets; the mean is `summary["effect"]["mean"]`.

    Args:
        recommender: the RUN.
        dataset: the log.
        split: "train", "validation" or "test".
        prior: "counts", "trained" or "counterfactual" (`Recommender.prior`).
        targets: how many targets are measured, evenly spaced over the split; None: all. Those that the RUN does not
            know are left out.
        progress: called with the number of targets done so far.

    Raises:
        InputError: an unknown split or prior, a split without known targets, or a prior that the RUN has not trained.
    """
    cases = cases_of(recommender, dataset, split_targets(dataset, split))
    return effects_of(recommender, cases.known(targets), prior, progress)


def effects_of(
    recommender: Scorer,
    cases: Cases,
    prior: str = "counts",
    progress: Callable[[int], None] | None = None,
    parts: Parts | None = None,
) -> Effects:
    """Measure the effect on given targets, which the RUN must know; see `measure_effects`.

    With `parts`, what an interrupted call has measured is not measured again.
    """
    if not len(cases):
        return no_effects(prior)
    parts = parts or Parts()
    expected = recommender.prior(prior)
    favourites = _favourites(expected)
    measured = []
    for begin in range(0, len(cases), _BATCH):
        end = min(begin + _BATCH, len(cases))
        own = cases[np.arange(begin, end)]
        measured.append(parts.get("effects", begin, end, partial(_measured, recommender, own, favourites)))
        if progress is not None:
            progress(end)
    log_p, masses = (np.concatenate([part[name] for part in measured]) for name in ("log_p", "masses"))
    table = _table(cases, expected, log_p, masses, favourites, 1 + popularity_groups(recommender.counts))
    favoured = np.exp(expected.items[favourites]).cumsum()
    prior_mass = {top: float(favoured[min(top, len(favoured)) - 1]) for top in FAVOURITES}
    return Effects(table, summarise(table, prior, prior_mass))


def _measured(recommender: Scorer, cases: Cases, favourites: NDArray[np.int64]) -> Arrays:
    """Return log p of the targets' tokens, one target's after another's, and the favourites' summed up [n, F]."""
    asked = [np.append(target, favourites) for target in cases.targets]
    found = recommender.log_probs(cases.histories, asked, softmax="catalogue")
    return {
        "log_p": np.concatenate([runs.values[: runs.lengths[0]] for runs in found]),
        "masses": np.array([np.exp(np.add.reduceat(runs.values, runs.starts)[1:]).cumsum() for runs in found]),
    }


def no_effects(prior: str = "counts") -> Effects:
    """Return the effects of no target at all."""
    nothing = pl.DataFrame(schema=EFFECTS_SCHEMA)
    return Effects(nothing, summarise(nothing, prior, {}))


def _favourites(prior: Prior) -> NDArray[np.int64]:
    """Return the items that the prior likes best, of items with one title the first, ties in item order."""
    order = np.argsort(-prior.items, kind="stable")
    _, first = np.unique(prior.trie.item_node[order], return_index=True)
    return order[np.sort(first)[: max(FAVOURITES)]]


def _table(
    cases: Cases,
    prior: Prior,
    log_p: NDArray[np.float64],
    masses: NDArray[np.float64],
    favourites: NDArray[np.int64],
    group: NDArray[np.int8],
) -> pl.DataFrame:
    trie, expected = prior.trie, prior.tokens(cases.targets)
    owner = np.repeat(np.arange(len(cases)), expected.lengths)
    place = np.arange(len(owner)) - expected.starts[owner]
    free = trie.choices[trie.parent[trie.paths[trie.offsets[cases.targets][owner] + place]]]
    choices = np.bincount(owner[free], minlength=len(cases))
    known = log_p[free]

    def lists(values: NDArray[Any]) -> list[NDArray[Any]]:
        return Ragged(values, choices).split()

    columns = {
        "user": cases.users,
        "target": cases.target_ids,
        "history_length": cases.history_lengths,
        "group": group[cases.targets],
        "effect": np.bincount(owner[free], weights=known - expected.values[free], minlength=len(cases)),
        "token": lists(1 + place[free]),
        "log_p": lists(known),
        "log_prior": lists(expected.values[free]),
    }
    nodes = trie.item_node[cases.targets]
    for top in FAVOURITES:
        columns[f"mass_{top}"] = masses[:, min(top, masses.shape[1]) - 1]
        columns[f"hit_{top}"] = np.isin(nodes, trie.item_node[favourites[:top]])
    return pl.DataFrame(columns, schema=EFFECTS_SCHEMA)


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
