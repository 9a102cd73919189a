"""Effect-guided ranking against a loop that sorts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import catalogue_of

from cftrec.decoding import SearchResult, counts_prior
from cftrec.decoding.guided import guided
from cftrec.errors import InputError

ITEMS = 8
PRIOR = counts_prior(catalogue_of([[item, 9] for item in range(ITEMS)]).trie, [5, 0, 1, 1, 9, 2, 0, 3])


@st.composite
def searches(draw) -> SearchResult:
    """Lists of some items, shorter for some users, best first."""
    users, top = draw(st.integers(0, 3)), draw(st.integers(1, ITEMS))
    items, scores = np.full((users, top), -1, dtype=np.int32), np.full((users, top), -np.inf)
    for row in range(users):
        found = draw(st.lists(st.integers(0, ITEMS - 1), max_size=top, unique=True))
        items[row, : len(found)] = found
        numbers = draw(st.lists(st.integers(-9, -1), min_size=len(found), max_size=len(found)))
        scores[row, : len(found)] = sorted(numbers, reverse=True)
    return SearchResult(items, scores, np.arange(users) % 2 == 0, np.arange(users), np.zeros(users))


@given(searches(), st.sampled_from([0.0, 0.5, 2.0]), st.data())
def test_equals_a_loop(found, gamma, data):
    k = data.draw(st.integers(1, found.items.shape[1]))
    shift = data.draw(st.sampled_from([0.0, 0.25]))  # under the vocabulary softmax log p is another one
    result = guided(found, found.scores + shift, PRIOR, gamma, k)
    assert result.exact is found.exact
    for row in range(len(found.items)):
        ranked = []
        for item, log_p in zip(found.items[row], found.scores[row], strict=True):
            if item >= 0:
                effect = log_p + shift - PRIOR.items[item]
                ranked.append((-(log_p + gamma * effect), item, log_p, effect))
        ranked = sorted(ranked)[:k]
        got = result.items[row] >= 0
        assert result.items[row][got].tolist() == [item for _, item, _, _ in ranked]
        np.testing.assert_allclose(result.scores[row][got], [-minus for minus, _, _, _ in ranked])
        np.testing.assert_allclose(result.log_p[row][got], [log_p for _, _, log_p, _ in ranked])
        np.testing.assert_allclose(result.effect[row][got], [effect for _, _, _, effect in ranked])
        assert not got[len(ranked) :].any()
        assert np.isneginf(result.scores[row][~got]).all()


@pytest.mark.parametrize("gamma", [-0.1, float("nan"), float("inf")])
def test_bad_input(gamma):
    nobody = np.empty(0, dtype=np.int64)
    found = SearchResult(
        np.empty((0, 1), np.int32), np.empty((0, 1)), nobody.astype(bool), nobody, nobody.astype(float)
    )
    with pytest.raises(InputError, match="gamma"):
        guided(found, found.scores, PRIOR, gamma, 1)
