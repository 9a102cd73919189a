"""A helper's scores in the search against loops over titles and prefixes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import BATCHING, LOOSE, MODELS, TOLERANCE, VOCABULARY, brute_force, catalogue_of

from cftrec.decoding import search
from cftrec.decoding.helper import mixed_with
from cftrec.errors import InputError

tokens = st.integers(0, VOCABULARY - 1)
titles = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=12)


def naive_log_q(sequences: list[list[int]], scores: np.ndarray, item: int) -> float:
    """Add up, along an item's sequence, the log of how much of what goes on goes on with the item's next token."""
    total, mass = 0.0, np.exp(scores)
    for place in range(len(sequences[item])):
        before = sequences[item][:place]
        onward = [i for i, s in enumerate(sequences) if len(s) > place and s[:place] == before]
        same = [i for i in onward if sequences[i][place] == sequences[item][place]]
        total += np.log(mass[same].sum() / mass[onward].sum())
    return total


@pytest.mark.parametrize("kind", ["qwen2", "mamba"])
@pytest.mark.parametrize("softmax", ["catalogue", "vocabulary"])
@settings(max_examples=20, deadline=None)
@given(rows=titles, starts=st.lists(st.lists(tokens, min_size=1, max_size=4), min_size=1, max_size=3), data=st.data())
def test_the_search_ranks_by_the_mean_of_both(kind, softmax, rows, starts, data):
    """Also where titles begin one another, and users' scores differ by orders of magnitude."""
    catalogue, model, k = catalogue_of(rows), MODELS[kind], data.draw(st.integers(1, len(rows)))
    number = st.floats(-30, 30)
    drawn = st.lists(
        st.lists(number, min_size=len(rows), max_size=len(rows)), min_size=len(starts), max_size=len(starts)
    )
    scores, weight = np.array(data.draw(drawn)), data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    prompts = [np.array(start, np.int32) for start in starts]
    adjust = mixed_with(catalogue.trie, scores, weight)
    found = search(model, catalogue, prompts, k, softmax=softmax, batching=BATCHING[kind], adjust=adjust)
    assert found.exact.all()
    for row, prompt in enumerate(prompts):
        log_q = np.array([naive_log_q(rows, scores[row], item) for item in range(len(rows))])
        expected = (1 - weight) * brute_force(model, catalogue, prompt, softmax) + weight * log_q
        tolerance = LOOSE.get(kind, TOLERANCE)
        np.testing.assert_allclose(found.scores[row], np.sort(expected)[::-1][:k], atol=tolerance)
        np.testing.assert_allclose(found.scores[row], expected[found.items[row]], atol=tolerance)


def test_the_helper_alone_is_the_softmax_of_its_scores():
    """Of closed titles: then q(title) is the title's share, and what is far behind keeps its precision."""
    catalogue = catalogue_of([[1, 2, 9], [1, 3, 9], [4, 9], [1, 2, 9]])
    scores = np.array([[0.0, 700.0, -700.0, 3.0]])
    found = search(
        MODELS["qwen2"], catalogue, [np.array([5], np.int32)], 4, adjust=mixed_with(catalogue.trie, scores, 1)
    )
    assert found.items[0].tolist() == [1, 0, 3, 2]
    np.testing.assert_allclose(found.scores[0], [0, *[np.log1p(np.exp(3)) - 700] * 2, -1400], atol=1e-9)


def test_bad_input():
    trie = catalogue_of([[1], [2]]).trie
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="helper_weight"):
            mixed_with(trie, [[0.0, 0.0]], weight)
    for scores in ([[0.0]], [0.0, 1.0], [[0.0, float("inf")]]):
        with pytest.raises(InputError, match="give every user a finite one of each item"):
            mixed_with(trie, scores, 0.5)
