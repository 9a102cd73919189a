import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_measures import IDS, counts, ranks_table

from cftrec.evaluation.effects import popularity_groups
from cftrec.evaluation.lists import TOGETHER
from cftrec.evaluation.measures import ALL_METRICS, estimate, measure
from cftrec.evaluation.metrics import per_target
from cftrec.evaluation.slices import evaluation_table, slice_rows, slices


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_every_target_is_in_one_slice_of_each_kind(seed):
    table, events = ranks_table(seed), counts(seed)
    cut = slices(table, IDS, events)
    for kind in ("history length", "target popularity", "cold target"):
        rows = [one.rows for one in cut if one.name == kind]
        np.testing.assert_array_equal(np.sum(rows, axis=0), 1)
    group = popularity_groups(events)
    for one in cut:
        for row, inside in zip(table.iter_rows(named=True), one.rows, strict=True):
            item = IDS.index(row["target"])
            if one.name == "history length":
                low, _, high = one.value.partition("-")
                assert inside == (int(low) <= row["history_length"] <= int(high or low))
            elif one.name == "target popularity":
                assert inside == (str(group[item] + 1) == one.value)
            else:
                assert inside == ({"yes": True, "no": False}[one.value] == (events[item] == 0))


def test_history_lengths_are_cut_into_about_equal_parts():
    table = ranks_table(n=1000).with_columns(history_length=pl.int_range(1000))
    parts = [one for one in slices(table, IDS, counts()) if one.name == "history length"]
    assert [one.rows.sum() for one in parts] == pytest.approx([200] * 5, abs=1)
    assert parts[0].value.startswith("0-")
    alike = ranks_table().with_columns(history_length=pl.lit(7))
    assert [one.value for one in slices(alike, IDS, counts()) if one.name == "history length"] == ["7"]


def test_a_target_outside_the_catalogue_is_cold_and_rare():
    table = ranks_table(n=3).with_columns(target=pl.Series(["i0", "gone", "i1"]))
    cut = {(one.name, one.value): one.rows.tolist() for one in slices(table, IDS, np.arange(30, 0, -1))}
    assert cut["cold target", "yes"] == [False, True, False]
    assert cut["target popularity", "5"] == [False, True, False]
    assert cut["target popularity", "1"] == [True, False, True]


def test_the_table_holds_all_and_each_slice():
    table, events = ranks_table(n=60), counts()
    found = evaluation_table(table, IDS, events)
    assert (found[0]["slice"], found[0]["value"], found[0]["targets"]) == ("all", "all", 60)
    assert found[0]["users"] == table["user"].n_unique()
    (everybody,), _ = estimate([[measure(table, IDS, events)]])
    assert found[0].items() >= everybody.items()
    cut = slices(table, IDS, events)
    assert [(row["slice"], row["value"]) for row in found[1:]] == [(one.name, one.value) for one in cut]
    for row, one in zip(found[1:], cut, strict=True):
        inside = table.filter(pl.Series(one.rows))
        assert (row["targets"], row["users"]) == (len(inside), inside["user"].n_unique())
        assert row["NDCG@10"] == pytest.approx(per_target(inside["rank"])["NDCG@10"].mean())
        assert not set(row) & set(TOGETHER)
        for name in (name for name in ALL_METRICS if name in row):
            if row["users"] == 1:
                assert row[f"{name}_ci"] is None
            else:
                low, high = row[f"{name}_ci"]
                assert (low <= row[name] + 1e-12 and high >= row[name] - 1e-12) or row["users"] < 6


def test_models_stand_side_by_side():
    table, events, calls = ranks_table(), counts(), []
    one, other = measure(table, IDS, events), measure(table.with_columns(rank=pl.lit(1)), IDS, events)
    cut = slices(table, IDS, events)
    rows = slice_rows(cut, [[one], [other, other]], draws=20, advance=lambda: calls.append(1))
    assert len(calls) == len(rows) == len(cut)
    assert all(pair[1]["HR@1"] == 1.0 for pair in rows)
    assert [pair[0] for pair in rows] == [pair[0] for pair in slice_rows(cut, [[one]], draws=20)]
