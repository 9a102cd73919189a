"""Token weights against the formula, one token at a time."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from cftrec.objective import gain_weights, token_weights
from cftrec.text import build_trie


def formula(lengths, beta):
    return [1 if last == 1 else 1 - (1 - beta) * (t - 1) / (last - 1) for last in lengths for t in range(1, last + 1)]


@given(st.lists(st.integers(0, 7), max_size=9), st.floats(0, 2))
@example([], 0.25)
@example([0, 0], 0.25)
@example([1, 0, 1], 0.0)
def test_they_follow_the_formula(lengths, beta):
    weights = token_weights(lengths, beta=beta)
    assert weights.dtype == torch.float32
    assert weights.shape == (sum(lengths),)
    torch.testing.assert_close(weights, torch.tensor(formula(lengths, beta), dtype=torch.float32))
    for part in weights.split([length for length in lengths if length]) if sum(lengths) else ():
        assert part[0] == 1
        assert part[-1].item() == pytest.approx(1 if len(part) == 1 else beta, abs=1e-7)


def test_defaults_and_known_values():
    assert token_weights([1, 2, 3]).tolist() == [1, 1, 0.25, 1, 0.625, 0.25]
    assert token_weights([4, 1], beta=1).tolist() == [1] * 5
    assert token_weights([3], beta=0).tolist() == [1, 0.5, 0]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_a_tensor_is_as_good_as_a_list(dtype):
    lengths = [3, 0, 1, 5]
    assert torch.equal(token_weights(torch.tensor(lengths, dtype=dtype)), token_weights(lengths))


def entropy(sequences, counts, prefix):
    """Sum -p log p over the items that begin with a prefix, in exact sums of floats."""
    total = sum(counts)
    under = [count for sequence, count in zip(sequences, counts, strict=True) if sequence[: len(prefix)] == prefix]
    return math.fsum(-count / total * math.log(count / total) for count in under if count)


catalogues = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=9)


@given(catalogues, st.data(), st.floats(0, 2))
def test_a_token_without_information_gain_weighs_beta(sequences, data, beta):
    count = st.sampled_from([0, 0, 1, 3, 10**9])
    counts = data.draw(st.lists(count, min_size=len(sequences), max_size=len(sequences)))
    trie = build_trie(np.concatenate(sequences), np.cumsum([0, *map(len, sequences)]))
    weights = gain_weights(trie, counts, beta=beta)
    assert weights.dtype == torch.float32
    assert weights.shape == (len(trie),)
    assert weights[0] == 1
    counts = counts if any(counts) else [1] * len(sequences)
    for item, sequence in enumerate(sequences):
        for place, node in enumerate(trie.path(item)):
            gain = entropy(sequences, counts, sequence[:place]) - entropy(sequences, counts, sequence[: place + 1])
            assert weights[node].item() == pytest.approx(1 if gain > 1e-12 else beta, abs=1e-7)


def test_gains_of_a_known_catalogue():
    """Forced tokens tell nothing, nor does a choice against items that training has never seen."""
    sequences = [[1, 2, 9], [1, 3, 9], [4, 9], [5, 9]]
    trie = build_trie(np.concatenate(sequences), np.cumsum([0, 3, 3, 2, 2]))

    def of(counts):
        weights = gain_weights(trie, counts, beta=0.25)
        return [weights[torch.from_numpy(trie.path(item))].tolist() for item in range(4)]

    assert of([2, 1, 1, 1]) == [[1, 1, 0.25], [1, 1, 0.25], [1, 0.25], [1, 0.25]]
    assert of([2, 0, 1, 0]) == [[1, 0.25, 0.25], [1, 1, 0.25], [1, 0.25], [1, 0.25]]
    assert of([2, 3, 0, 0]) == [[0.25, 1, 0.25], [0.25, 1, 0.25], [1, 0.25], [1, 0.25]]
    assert of([0, 0, 0, 0]) == of([1, 1, 1, 1])
    assert of([7, 0, 0, 0]) == [[0.25] * 3, [0.25] * 3, [0.25] * 2, [0.25] * 2], "one item alone: p log p is 0"


def test_gains_of_a_large_catalogue_are_fast():
    rng = np.random.default_rng(0)
    offsets = np.concatenate(([0], np.cumsum(rng.integers(4, 12, 20_000))))
    trie = build_trie(rng.integers(0, 50, offsets[-1]), offsets)
    begin = time.perf_counter()
    gain_weights(trie, rng.integers(0, 3, 20_000))
    assert time.perf_counter() - begin < 0.2
