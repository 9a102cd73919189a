"""A planted world: laws, truth and optima against loops over every item, and draws against the law."""

import itertools
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.cli import main
from cftrec.data import Dataset
from cftrec.data.world import WorldOptions, make_world
from cftrec.errors import InputError

SMALL = {"items": 50, "users": 6, "length": 6}


def naive_law(world, history):
    """Return p(y | h) item by item, as the module's first lines have it."""
    options = world.options
    names = [[g for g, has in enumerate(row) if has] for row in world.genres]
    mass = dict.fromkeys(range(options.genres), 0.0)
    for item, genres in enumerate(names):
        for genre in genres:
            mass[genre] += world.prior[item] / len(genres)
    recent = list(history)[-options.recent :]
    law = []
    for item, genres in enumerate(names):
        lift = 1.0
        if recent:
            lift = 1 - options.strength
            for other, genre in itertools.product(recent, genres):
                share = (genre in names[other]) / len(names[other]) / len(recent)
                lift += options.strength * share / len(genres) / mass[genre]
        law.append(0.0 if item in history and not options.repeats else world.prior[item] * lift)
    return np.array(law) / sum(law)


worlds = st.builds(
    lambda **options: make_world(WorldOptions(**SMALL, **options)),
    genres=st.integers(1, 5),
    two_genres=st.sampled_from([0.0, 0.5, 1.0]),
    strength=st.sampled_from([0.0, 0.3, 0.99]),
    recent=st.integers(1, 4),
    repeats=st.booleans(),
    skew=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 9),
)


@settings(max_examples=40, deadline=None)
@given(world=worlds, length=st.integers(0, 5))
def test_the_law_is_that_of_a_loop_over_items(world, length):
    histories = world.events[:, :length]
    expected = np.array([naive_law(world, history) for history in histories])
    np.testing.assert_allclose(world.laws(histories), expected, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(world=worlds)
def test_truth_and_optimum_are_those_of_loops_over_events(world):
    laws = [[naive_law(world, user[:step]) for step in range(len(user))] for user in world.events]
    marginal = np.mean([law for user in laws for law in user], axis=0)
    if world.options.repeats:
        marginal = world.prior
    pairs = [
        (law, item)
        for user, items in zip(laws, world.events, strict=True)
        for law, item in zip(user, items, strict=True)
    ]
    expected = {
        "log_p": [np.log(law[item]) for law, item in pairs],
        "log_prior": [np.log(marginal[item]) for _, item in pairs],
    }
    expected["effect"] = np.subtract(expected["log_p"], expected["log_prior"]).tolist()
    truth = world.truth
    assert truth.columns == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(truth[name].to_numpy(), values, atol=1e-9)
    best = [sorted(user[-1], reverse=True) for user in laws]
    optimum = world.optimum(-1)
    for k in (1, 5, 10, 20):
        assert optimum[f"HR@{k}"] == pytest.approx(np.mean([sum(law[:k]) for law in best]), abs=1e-12)
        gain = np.mean([sum(p / np.log2(2 + r) for r, p in enumerate(law[:k])) for law in best])
        assert optimum[f"NDCG@{k}"] == pytest.approx(gain, abs=1e-12)
    ranks = [1 + sum(law[-1] / law[-1][user[-1]] > 1 + 1e-9) for law, user in zip(laws, world.events, strict=True)]
    assert world.optimal_ranks(-1).tolist() == ranks


def test_events_are_drawn_by_the_law():
    """Users who share their first item: their second ones against the law, by a chi-squared bound."""
    world = make_world(WorldOptions(items=50, users=40_000, length=4, strength=0.7, genres=4, seed=3))
    first = np.bincount(world.events[:, 0]).argmax()
    seconds = world.events[world.events[:, 0] == first, 1]
    law = world.laws([[first]])[0]
    possible = law > 0
    expected = law[possible] * len(seconds)
    chi = (np.square(np.bincount(seconds, minlength=50)[possible] - expected) / expected).sum()
    degrees = possible.sum() - 1
    assert len(seconds) > 1000
    assert abs(chi - degrees) < 5 * np.sqrt(2 * degrees)


def test_users_take_nothing_twice_unless_the_world_has_repeats():
    distinct = make_world(WorldOptions(**SMALL | {"users": 300, "length": 20})).events
    assert all(len(set(user)) == 20 for user in distinct.tolist())
    repeated = make_world(WorldOptions(**SMALL | {"users": 300, "length": 20}, repeats=True)).events
    assert any(len(set(user)) < 20 for user in repeated.tolist())


def test_no_strength_is_no_effect_where_repeats_are_allowed():
    truth = make_world(WorldOptions(**SMALL, strength=0.0, repeats=True)).truth
    np.testing.assert_allclose(truth["effect"].to_numpy(), 0.0, atol=1e-12)


def test_titles_name_the_genres_and_differ():
    world = make_world(WorldOptions(items=3000, users=1, length=4, genres=2))
    assert len(set(world.titles)) == 3000
    kinds = [title.split(":")[0] for title in world.titles]
    assert kinds == world.dataset().items["genres"].to_list()
    assert set(kinds) == {"Western", "Comedy", "Western Comedy"}


def test_a_large_catalogue():
    world = make_world(WorldOptions(items=100_000, users=3, length=5))
    assert len(set(world.titles)) == 100_000
    best = np.sort(world.laws(world.events[:, :-1]), axis=1)[:, ::-1]
    assert world.optimum(-1)["HR@20"] == pytest.approx(best[:, :20].sum(axis=1).mean(), abs=1e-12)


def test_the_command_writes_a_dataset_with_its_truth(tmp_path, capsys):
    main(["world", "--out", str(tmp_path / "w"), "--items", "50", "--users", "30", "--length", "8", "--seed", "4"])
    options = WorldOptions(items=50, users=30, length=8, seed=4)
    world = make_world(options)
    dataset = Dataset.load(tmp_path / "w")
    assert dataset.events.tolist() == world.events.ravel().tolist()
    assert pl.read_parquet(tmp_path / "w" / "truth.parquet").equals(world.truth)
    manifest = json.loads((tmp_path / "w" / "manifest.json").read_text())
    assert manifest["options"]["strength"] == options.strength
    best = manifest["world"]["optimum"]["test"]["NDCG@10"]
    assert best == pytest.approx(world.optimum(-1)["NDCG@10"])
    effect = world.truth["effect"].to_numpy().reshape(30, 8)
    assert manifest["world"]["mean_effect"]["test"] == pytest.approx(effect[:, -1].mean())
    assert f"NDCG@10 {best:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [{"items": 49}, {"length": 101}, {"genres": 21}, {"strength": 1.0}, {"users": 0}, {"recent": 0}, {"seed": -1}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=f"option {next(iter(options))}: .* is out of range; give"):
        WorldOptions(**options)


def test_a_world_whose_users_would_take_all_that_is_popular_is_refused():
    with pytest.raises(InputError, match="lower skew or length, or give repeats"):
        WorldOptions(items=10_000, length=5_000, skew=5)
    WorldOptions(items=10_000, length=5_000, skew=1)
    make_world(WorldOptions(items=10_000, length=5_000, skew=5, users=1, repeats=True))
    made = make_world(WorldOptions(items=60, length=30, skew=5, users=20))  # near the bound it ends
    assert all(len(set(row)) == 30 for row in made.events.tolist())
