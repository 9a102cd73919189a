import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.errors import InputError
from cftrec.evaluation.lists import TOGETHER, all_lists
from cftrec.evaluation.measures import ALL_METRICS, COLUMNS, estimate, measure, padded
from cftrec.evaluation.metrics import CUTOFFS, per_target

IDS = [f"i{item}" for item in range(30)]


def ranks_table(seed=0, n=40, users=15, catalogue=IDS):
    rng = np.random.default_rng(seed)
    lists = [[catalogue[item] for item in rng.permutation(len(catalogue))[:25]] for _ in range(n)]
    targets = [catalogue[item] for item in rng.integers(0, len(catalogue), size=n)]
    return pl.DataFrame(
        {
            "user": [f"u{user}" for user in rng.integers(0, users, size=n)],
            "target": targets,
            "history_length": rng.integers(0, 12, size=n),
            "rank": [
                row.index(target) + 1 if target in row else None for row, target in zip(lists, targets, strict=True)
            ],
            "items": lists,
            "history": [[catalogue[item] for item in rng.integers(0, len(catalogue), size=5)] for _ in range(n)],
        }
    )


def counts(seed=0):
    return np.random.default_rng(seed).integers(0, 9, size=len(IDS))


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_recall_is_the_mean_over_users_of_what_was_found(seed):
    table = ranks_table(seed)
    (row,), _ = estimate([[measure(table, IDS, counts())]], draws=5)
    assert {name for name in row if not name.endswith("_ci")} == set(ALL_METRICS)
    for k in CUTOFFS:
        shares = []
        for _, mine in table.group_by("user"):
            shares.append(sum(rank is not None and rank <= k for rank in mine["rank"]) / len(mine))
        assert row[f"Recall@{k}"] == pytest.approx(np.mean(shares))
        assert row[f"HR@{k}"] == pytest.approx(np.mean([rank is not None and rank <= k for rank in table["rank"]]))


def test_recall_is_hr_where_every_user_has_one_target():
    table = ranks_table().with_columns(user=pl.int_range(40).cast(pl.String))
    (row,), _ = estimate([[measure(table, IDS, counts())]], draws=50)
    for k in CUTOFFS:
        assert row[f"Recall@{k}"] == row[f"HR@{k}"]
        assert row[f"Recall@{k}_ci"] == row[f"HR@{k}_ci"]


def test_columns_hold_what_the_metrics_say():
    table = ranks_table()
    found = measure(table, IDS, counts())
    for name, values in per_target(table["rank"]).items():
        np.testing.assert_array_equal(found.values[:, COLUMNS.index(name)], values)
    index = {item: place for place, item in enumerate(IDS)}
    np.testing.assert_array_equal(found.items, [[index[item] for item in row[:20]] for row in table["items"]])
    (row,), _ = estimate([[found]], draws=5)
    for name, (value, error) in all_lists(found.items, found.users, len(IDS)).items():
        assert row[name] == pytest.approx(value)
        assert row[f"{name}_ci"] == pytest.approx(
            [max(0, value - 1.96 * error), min(1, value + 1.96 * error)], abs=1e-4
        )


def test_the_rows_of_some_targets_are_those_of_a_smaller_table():
    table, some = ranks_table(), np.arange(40) % 3 == 0
    parts = measure(table, IDS, counts()).of(some), measure(table.filter(pl.Series(some)), IDS, counts())
    (one,), _ = estimate([[parts[0]]], draws=30)
    (other,), _ = estimate([[parts[1]]], draws=30)
    assert one == other


def test_several_seeds_are_averaged():
    tables = [measure(ranks_table().with_columns(rank=pl.lit(rank)), IDS, counts()) for rank in (1, 2, 5)]
    (row, *single), _ = estimate([tables, *([table] for table in tables)], draws=200)
    for name in (*COLUMNS, *TOGETHER):
        assert row[name] == pytest.approx(np.mean([one[name] for one in single]))
    assert row["MRR@5_ci"][0] < row["MRR@5"] < row["MRR@5_ci"][1]
    assert single[0]["MRR@5_ci"] == [1.0, 1.0]


def test_lists_of_ids_become_indices():
    lists = pl.Series([["c", "a"], [], ["b", "zzz", "c"], None], dtype=pl.List(pl.String))
    assert padded(lists, ["a", "b", "c"]).tolist() == [[2, 0, -1], [-1, -1, -1], [1, -1, 2], [-1, -1, -1]]
    assert padded(lists, ["a", "b", "c"], 2).tolist() == [[2, 0], [-1, -1], [1, -1], [-1, -1]]
    assert padded(lists, ["a", "b", "c"], 4).shape == (4, 4)


def test_what_has_no_value_is_left_out():
    empty = ranks_table().with_columns(rank=pl.lit(None), items=pl.lit([], dtype=pl.List(pl.String)))
    (row,), _ = estimate([[measure(empty, IDS, counts())]], draws=5)
    assert "HR@10" in row
    assert not any(name.startswith(("coverage", "Gini", "popularity", "novelty", "shift")) for name in row)
    young = ranks_table().with_columns(history=pl.lit([], dtype=pl.List(pl.String)))
    (row,), _ = estimate([[measure(young, IDS, counts())]], draws=5)
    assert "novelty@10" in row
    assert "shift@10" not in row


def test_one_user_has_no_interval():
    (row,), _ = estimate([[measure(ranks_table(users=1), IDS, counts())]], draws=5)
    assert {row[name] for name in row if name.endswith("_ci")} == {None}


def test_an_empty_table_is_refused():
    with pytest.raises(InputError, match="no target to measure"):
        measure(ranks_table().clear(), IDS, counts())
