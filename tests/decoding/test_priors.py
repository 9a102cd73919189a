"""Priors against loops over prefixes: a distribution over the titles, token by token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import MODELS, VOCABULARY, brute_force, catalogue_of

from cftrec.decoding import counts_prior, priors
from cftrec.decoding.priors import SMOOTHING, model_prior
from cftrec.errors import InputError

CLOSING = 9
titles = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=12)


def naive_steps(sequences: list[list[int]], mass: list[float], item: int) -> list[float]:
    """Look at each beginning of an item's sequence: how much of what goes on from it goes on with the item's token."""
    steps = []
    for place in range(len(sequences[item])):
        before = sequences[item][:place]
        onward = [s for s in range(len(sequences)) if len(sequences[s]) > place and sequences[s][:place] == before]
        same = [s for s in onward if sequences[s][place] == sequences[item][place]]
        steps.append(np.log(sum(mass[s] for s in same) / sum(mass[s] for s in onward)))
    return steps


@given(titles, st.data(), st.sampled_from([SMOOTHING, 1.0, 0.01]))
def test_counts_equal_a_loop(rows, data, smoothing):
    """Also where titles begin one another, as the model's own softmax has it."""
    counts = data.draw(st.lists(st.integers(0, 9), min_size=len(rows), max_size=len(rows)))
    prior = counts_prior(catalogue_of(rows).trie, counts, smoothing)
    mass = [count + smoothing for count in counts]
    runs = prior.tokens(range(len(rows))).split()
    for item, run in enumerate(runs):
        np.testing.assert_allclose(run, naive_steps(rows, mass, item), atol=1e-12)
        assert prior.items[item] == pytest.approx(run.sum())
        distinct = [
            len({tuple(s[: n + 1]) for s in rows if s[:n] == rows[item][:n] and len(s) > n}) for n in range(len(run))
        ]
        assert not run[np.array(distinct) == 1].any(), "a forced token costs nothing"


@given(titles, st.data())
def test_closed_titles_sum_to_one_and_have_their_share(rows, data):
    sequences = [[*row, CLOSING] for row in rows]
    counts = np.array(data.draw(st.lists(st.integers(0, 9), min_size=len(rows), max_size=len(rows))))
    prior = counts_prior(catalogue_of(sequences).trie, counts)
    distinct = {tuple(row): item for item, row in enumerate(rows)}
    assert np.exp(prior.items[list(distinct.values())]).sum() == pytest.approx(1)
    for title, item in distinct.items():
        together = np.array([tuple(row) == title for row in rows])
        share = (counts[together] + SMOOTHING).sum() / (counts + SMOOTHING).sum()
        assert prior.items[item] == pytest.approx(np.log(share))


@pytest.mark.parametrize("kind", ["qwen2", "mamba"])
@settings(max_examples=10, deadline=None)
@given(rows=titles, prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4))
def test_a_models_prior_is_its_own_answer(kind, rows, prompt):
    """In rows of so few titles that several are needed."""
    catalogue, start = catalogue_of([[*row, CLOSING] for row in rows]), np.array(prompt, np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priors, "_ROW_ITEMS", 2)
        patch.setattr(priors, "_ROWS", 3)
        batching = "padded" if kind == "mamba" else "forest"
        prior = model_prior("counterfactual", MODELS[kind], catalogue, start, batching)
    tolerance = 1e-4 if kind == "mamba" else 1e-5
    np.testing.assert_allclose(prior.items, brute_force(MODELS[kind], catalogue, start, "catalogue"), atol=tolerance)
    distinct = list({tuple(row): item for item, row in enumerate(rows)}.values())
    assert np.exp(prior.items[distinct]).sum() == pytest.approx(1, abs=tolerance)


def test_bad_input():
    trie = catalogue_of([[1], [2]]).trie
    with pytest.raises(InputError, match=r"smoothing 0\.0: must be above 0"):
        counts_prior(trie, [1, 2], 0.0)
    with pytest.raises(InputError, match="3 counts for 2 items"):
        counts_prior(trie, [1, 2, 3])
