"""Measured effects against loops over tokens and brute force over all items of a tiny catalogue."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftrec import Catalogue, Recommender
from cftrec.decoding import sequence_log_probs
from cftrec.errors import InputError
from cftrec.evaluation import measure_effects
from cftrec.evaluation.effects import group_shares, popularity_groups
from cftrec.text import Prompt

CLOSING = 9


@pytest.fixture
def recommender(dataset, tiny_model):
    """A random model over 40 titles of two digits and a closing; every tenth title is also that of the next item."""
    ids = dataset.items["item_id"].to_list()
    sequences = [[1 + (n - (n % 10 == 1)) // 7, 1 + (n - (n % 10 == 1)) % 7, CLOSING] for n in range(40)]
    catalogue = Catalogue.build(ids, ids, sequences, dataset.item_counts())
    prompt = Prompt((0,), (), (CLOSING,), (CLOSING,), (0, 8))
    return Recommender(tiny_model("llama", 10).eval(), catalogue, prompt, 5, "catalogue", "random", prior_weight=0.1)


@pytest.mark.parametrize("prior", ["counts", "trained", "counterfactual"])
def test_effects_equal_brute_force(recommender, dataset, prior):
    catalogue, every = recommender.catalogue, list(range(40))
    effects = measure_effects(recommender, dataset, prior=prior)

    def log_p(prompt):
        return sequence_log_probs(recommender.model, [prompt] * 40, every, catalogue, "catalogue")

    titles = {tuple(catalogue.sequence(item)): item for item in reversed(every)}
    if prior == "counts":
        mass = dict.fromkeys(titles, 0.0)
        for item in every:
            mass[tuple(catalogue.sequence(item))] += dataset.item_counts()[item] + 0.5
        expected = [np.log(mass[tuple(catalogue.sequence(item))] / sum(mass.values())) for item in every]
    else:
        expected = [run.sum() for run in log_p(np.array([0, 8], np.int32))]
    liked = sorted(titles.values(), key=lambda item: -expected[item])
    assert effects.table.height == 30
    for row, position in zip(effects.table.iter_rows(named=True), dataset.targets("test"), strict=True):
        target = int(dataset.events[position])
        known = log_p(recommender._shown(dataset.history(position)))
        assert row["target"] == f"i{target}"
        assert row["effect"] == pytest.approx(known[target].sum() - expected[target], abs=1e-4)
        places = [place - 1 for place in row["token"]]
        np.testing.assert_allclose(row["log_p"], known[target][places], atol=1e-4)
        assert known[target].sum() == pytest.approx(sum(row["log_p"]), abs=1e-4), "what is left out is forced"
        assert sum(row["log_prior"]) == pytest.approx(expected[target], abs=1e-4)
        for top in (10, 50):
            assert row[f"mass_{top}"] == pytest.approx(sum(np.exp(known[item].sum()) for item in liked[:top]), abs=1e-4)
            same = [tuple(catalogue.sequence(item)) for item in liked[:top]]
            assert row[f"hit_{top}"] == (tuple(catalogue.sequence(target)) in same)
    assert effects.table["mass_50"].to_list() == pytest.approx([1] * 30, abs=1e-4)  # fewer titles than that
    assert effects.summary["effect"]["mean"] == pytest.approx(effects.table["effect"].mean())


def test_a_part_of_the_targets_evenly_spaced(recommender, dataset):
    whole, calls = measure_effects(recommender, dataset).table, []
    part = measure_effects(recommender, dataset, targets=4, progress=calls.append).table
    assert part["user"].to_list() == whole["user"][[0, 10, 19, 29]].to_list()
    assert part["effect"].to_list() == pytest.approx(whole["effect"][[0, 10, 19, 29]].to_list(), abs=1e-5)
    assert calls == [4]
    nothing = measure_effects(recommender, dataset, targets=0)
    assert nothing.table.is_empty()
    assert (nothing.summary["targets"], nothing.summary["users"]) == (0, 0)


def test_group_is_the_targets_popularity(recommender, dataset):
    table = measure_effects(recommender, dataset).table
    group = popularity_groups(dataset.item_counts())
    assert table["group"].to_list() == [1 + group[item] for item in dataset.events[dataset.targets("test")]]


def test_bad_priors(recommender, dataset):
    with pytest.raises(InputError, match="prior 'best' is not known; choose one of counts, trained, counterfactual"):
        measure_effects(recommender, dataset, prior="best")
    with pytest.raises(InputError, match="prior 'trained': random has trained none"):
        measure_effects(replace(recommender, prior_weight=0.0), dataset, prior="trained")
    with pytest.raises(InputError, match="--split dev"):
        measure_effects(recommender, dataset, "dev")


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_groups_hold_equal_mass_up_to_one_item(counts):
    count = np.array(counts)
    group = popularity_groups(count)
    order = np.argsort(-count, kind="stable")
    assert np.all(np.diff(group[order]) >= 0)
    assert np.all(group[count == 0] == 4)
    mass = np.bincount(group, weights=count, minlength=5)
    assert np.all(np.abs(mass - count.sum() / 5) <= count.max() + 1e-9)


def test_groups_of_a_plain_case():
    assert popularity_groups([1, 4, 1, 2, 2, 0]).tolist() == [4, 0, 4, 2, 3, 4]


def test_shares_ignore_padding():
    group = np.array([0, 1, 4], dtype=np.int8)
    assert group_shares([[0, 1], [2, -1], [0, -1]], group).tolist() == [0.5, 0.25, 0, 0, 0.25]
    assert group_shares([-1], group).tolist() == [0] * 5
