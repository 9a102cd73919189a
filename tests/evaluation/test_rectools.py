"""Metrics equal those of RecTools 0.19 on random inputs to 1e-9, where it is installed."""

import numpy as np
import polars as pl
import pytest

pytest.importorskip("rectools", reason="RecTools is not installed")

import pandas as pd
from rectools.metrics import (
    MRR,
    NDCG,
    AvgRecPopularity,
    CatalogCoverage,
    HitRate,
    MeanInvUserFreq,
    Recall,
    calc_metrics,
)

from cftrec.evaluation.measures import estimate, measure
from cftrec.evaluation.metrics import CUTOFFS

USERS, ITEMS = 60, 50


def long(lists: list[list[int]]) -> pd.DataFrame:
    rows = [(user, item, rank) for user, row in enumerate(lists) for rank, item in enumerate(row, start=1)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "rank"])


@pytest.mark.parametrize("seed", range(5))
def test_equal_on_random_inputs(seed):
    rng = np.random.default_rng(seed)
    seen = [rng.choice(ITEMS, size=rng.integers(1, 12), replace=False).tolist() for _ in range(USERS)]
    lists = [rng.permutation(ITEMS)[: rng.integers(1, 26)].tolist() for _ in range(USERS)]
    targets = rng.integers(0, ITEMS, size=USERS)
    counts = np.bincount(np.concatenate(seen), minlength=ITEMS)
    table = pl.DataFrame(
        {
            "user": [str(user) for user in range(USERS)],
            "rank": [
                row.index(target) + 1 if target in row else None for row, target in zip(lists, targets, strict=True)
            ],
            "items": [[str(item) for item in row] for row in lists],
            "history": [[str(item) for item in row] for row in seen],
        }
    )
    (ours,), _ = estimate([[measure(table, [str(item) for item in range(ITEMS)], counts)]], draws=1)

    kinds = {"HR": HitRate, "MRR": MRR, "Recall": Recall, "novelty": MeanInvUserFreq, "popularity": AvgRecPopularity}
    metrics = {f"{name}@{k}": kind(k=k) for name, kind in kinds.items() for k in CUTOFFS}
    # Theirs divides by the DCG of k relevant items unless told that there is one.
    metrics |= {f"NDCG@{k}": NDCG(k=k, divide_by_achievable=True) for k in CUTOFFS}
    metrics |= {f"coverage@{k}": CatalogCoverage(k=k, normalize=True) for k in CUTOFFS}
    theirs = calc_metrics(
        metrics,
        reco=long(lists),
        interactions=pd.DataFrame({"user_id": range(USERS), "item_id": targets}),
        prev_interactions=long(seen),
        catalog=np.arange(ITEMS),
    )
    # Theirs divides an item's users by all users, ours by all events: a constant, for nobody has an item twice here.
    bits = np.log2(counts.sum() / USERS)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value + bits * name.startswith("novelty"), abs=1e-9), name
