"""Means of effects against loops, and the sentence about fading on effects that do, do not, and may."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.evaluation import resampled_means
from cftrec.evaluation.effect_summary import summarise
from cftrec.evaluation.effects import EFFECTS_SCHEMA

rows = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 60), st.integers(1, 5), st.lists(st.floats(-9, 9), max_size=5)),
    min_size=1,
    max_size=15,
)


def table_of(users, lengths, groups, effects) -> pl.DataFrame:
    """Write effects as log p over a log prior of -1 a choice; favourites are hit by users of an even number."""
    columns = {
        "user": [f"u{user}" for user in users],
        "target": ["i0"] * len(users),
        "history_length": lengths,
        "group": groups,
        "effect": [sum(effect) for effect in effects],
        "token": [list(range(1, len(effect) + 1)) for effect in effects],
        "log_p": [[value - 1.0 for value in effect] for effect in effects],
        "log_prior": [[-1.0] * len(effect) for effect in effects],
        "mass_10": [0.25] * len(users),
        "hit_10": [user % 2 == 0 for user in users],
        "mass_50": [0.5] * len(users),
        "hit_50": [True] * len(users),
    }
    return pl.DataFrame(columns, schema=EFFECTS_SCHEMA)


@settings(max_examples=25)
@given(rows)
def test_means_equal_loops(given_rows):
    users, lengths, groups, effects = zip(*given_rows, strict=True)
    summary = summarise(table_of(users, lengths, groups, effects), "counts", {10: 0.2, 50: 0.4})
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["effect"]["mean"] == pytest.approx(np.mean([sum(effect) for effect in effects]))
    assert summary["log_p"] - summary["log_prior"] == pytest.approx(summary["effect"]["mean"])
    assert len(summary["by_choice"]) == max(map(len, effects))
    for row in summary["by_choice"]:
        there = [effect[row["choice"] - 1] for effect in effects if len(effect) >= row["choice"]]
        assert (row["targets"], row["log_prior"]) == (len(there), -1)
        assert row["mean"] == pytest.approx(np.mean(there))
        assert row["log_p"] == pytest.approx(np.mean(there) - 1)
        whose = {user for user, effect in zip(users, effects, strict=True) if len(effect) >= row["choice"]}
        assert (row["ci"] is None) == (len(whose) == 1)
        assert len(there) < 5 or len(whose) == 1 or row["ci"][0] - 1e-9 <= row["mean"] <= row["ci"][1] + 1e-9
    for row in summary["by_popularity"]:
        there = [sum(effect) for group, effect in zip(groups, effects, strict=True) if group == row["group"]]
        assert (row["targets"], row["mean"]) == (len(there), pytest.approx(np.mean(there)))
    covered = 0
    for row in summary["by_history_length"]:
        there = [sum(e) for length, e in zip(lengths, effects, strict=True) if row["from"] <= length <= row["to"]]
        assert (row["targets"], row["mean"]) == (len(there), pytest.approx(np.mean(there)))
        covered += len(there)
    assert covered == sum(row["targets"] for row in summary["by_popularity"]) == len(users)
    first, second = summary["favourites"]
    assert (first["top"], first["prior"], first["model"]["mean"], second["data"]["mean"]) == (10, 0.2, 0.25, 1)
    assert first["data"]["mean"] == pytest.approx(np.mean([user % 2 == 0 for user in users]))
    slopes = [np.polyfit(np.linspace(0, 1, len(e)), e, 1)[0] for e in effects if len(e) > 1]
    slope = summary["fade"]["slope"]
    assert slope["targets"] == len(slopes)
    assert slope["mean"] == (pytest.approx(np.mean(slopes), abs=1e-6) if slopes else None)


def test_intervals_are_those_of_the_bootstrap_over_users():
    rng = np.random.default_rng(0)
    users = rng.integers(0, 20, 60)
    effects = [rng.normal(size=2).tolist() for _ in users]
    table = table_of(users, users, np.ones(60), effects)
    summary = summarise(table, "counts", {10: 0.2, 50: 0.4})
    drawn = resampled_means(np.array([[sum(effect)] for effect in effects]), table["user"])
    assert summary["effect"]["ci"] == pytest.approx(np.quantile(drawn[:, 0], [0.025, 0.975]).tolist())


@pytest.mark.parametrize(
    ("base", "slope", "noise", "words"),
    [
        (2.0, -1.0, 0.5, "The effect fades: it falls by 1."),
        (2.0, 1.0, 0.5, "The effect does not fade: it grows by "),
        (2.0, 0.0, 3.0, "may be chance"),
        (0.0, -1.0, 0.5, "There is no effect that could fade: its mean, −1."),
    ],
)
def test_whether_the_effect_fades(base, slope, noise, words):
    rng = np.random.default_rng(1)
    effects = [
        (base + slope * np.linspace(0, 1, n) + noise * rng.normal(size=n)).tolist() for n in rng.integers(1, 6, 400)
    ]
    table = table_of(np.arange(400), np.arange(400), np.ones(400), effects)
    fade = summarise(table, "counts", {10: 0.2, 50: 0.4})["fade"]
    assert words in fade["sentence"]
    low, high = fade["slope"]["ci"]
    assert low < fade["slope"]["mean"] < high
    assert (fade["p"] < 0.05) == (slope != 0)
    assert f"{sum(len(effect) > 1 for effect in effects)} titles" in fade["sentence"]


def test_no_title_has_two_choices():
    fade = summarise(table_of([0, 1], [3, 4], [1, 1], [[1.0], []]), "trained", {10: 0.2, 50: 0.4})["fade"]
    assert (fade["p"], fade["slope"]["targets"]) == (None, 0)
    assert "cannot be asked" in fade["sentence"]


@pytest.mark.parametrize(("effects", "titles"), [([[1.0, -2.0]], "1 title"), ([[1.0, -2.0], [2.0, 0.5]], "2 titles")])
def test_one_user_has_neither_interval_nor_p(effects, titles):
    count = len(effects)
    summary = summarise(table_of([3] * count, [4] * count, [1] * count, effects), "counts", {10: 0.2, 50: 0.4})
    means = [summary["effect"], *summary["by_choice"], *summary["by_history_length"], summary["fade"]["slope"]]
    means += [one[side] for one in summary["favourites"] for side in ("model", "data")]
    assert [mean["ci"] for mean in means] == [None] * len(means)
    assert summary["fade"]["p"] is None
    change = abs(summary["fade"]["slope"]["mean"])
    assert summary["fade"]["sentence"] == (
        f"Whether the effect fades cannot be told from one user: it falls by {change:.2f} nats from a title's first "
        f"choice to its last ({titles})."
    )


def test_what_one_of_many_users_has_alone_has_no_interval():
    summary = summarise(table_of([0, 1, 2], [3] * 3, [1, 1, 2], [[1.0], [2.0], [1.0, 3.0]]), "counts", {10: 0.2})
    assert [row["ci"] is None for row in summary["by_choice"]] == [False, True]
    assert [row["ci"] is None for row in summary["by_popularity"]] == [False, True]
    assert summary["fade"]["p"] is None
