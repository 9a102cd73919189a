"""The prefix forest against a brute-force set of prefixes."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cftrec.forest import build_forest
from cftrec.forest.build import common_prefixes, pad, sort_rows
from cftrec.ragged import Ragged

LARGEST = 2**31 - 2
few_tokens = st.lists(st.integers(0, 2), max_size=6)  # few tokens make duplicates and prefixes of each other
any_tokens = st.lists(st.sampled_from([0, 1, 255, 256, 65_535, 65_536, 2**24, LARGEST - 1, LARGEST]), max_size=5)
ragged = st.one_of(st.lists(few_tokens, max_size=9), st.lists(any_tokens, max_size=7))


def prefixes(sequences) -> list[tuple[int, ...]]:
    """Every distinct non-empty prefix; in Python's order of tuples a prefix stands before what extends it."""
    return sorted({tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)})


def spelled(forest) -> list[tuple[int, ...]]:
    """The prefix at each node, read off the ancestors alone: j is one of i's iff j <= i < end[j]."""
    count = len(forest.tokens)
    return [tuple(int(forest.tokens[j]) for j in range(i + 1) if i < forest.end[j]) for i in range(count)]


@given(ragged)
@example([])
@example([[]])
@example([[], [], [0]])
@example([[5], [5], [5, 0], [5, 0, 0]])
@example([[LARGEST], [0, LARGEST], [0]])
@settings(max_examples=300)
def test_every_prefix_once_in_depth_first_order(sequences):
    forest = build_forest(sequences)
    expected = prefixes(sequences)
    assert spelled(forest) == expected
    assert forest.depth.tolist() == [len(prefix) - 1 for prefix in expected]
    # A subtree is a run of nodes: from the node to the last that begins with its prefix.
    ends = [max(j for j, other in enumerate(expected) if other[: len(p)] == p) + 1 for p in expected]
    assert forest.end.tolist() == ends
    assert len(forest.paths) == len(sequences)
    for sequence, path in zip(sequences, forest.paths, strict=True):
        assert [expected[node] for node in path] == [tuple(sequence[: n + 1]) for n in range(len(sequence))]


@given(ragged)
def test_arrays_are_int64(sequences):
    forest = build_forest(sequences)
    for array in (forest.tokens, forest.depth, forest.end, *forest.paths):
        assert array.dtype == np.int64
        assert array.ndim == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_arrays_of_any_integer_type_are_as_good_as_lists(dtype):
    sequences = [[3, 0, 7], [3], [], [3, 0, 7, 100]]
    expected, forest = build_forest(sequences), build_forest([np.array(s, dtype=dtype) for s in sequences])
    assert forest.tokens.tolist() == expected.tokens.tolist()
    assert [path.tolist() for path in forest.paths] == [path.tolist() for path in expected.paths]


def test_a_table_is_a_list_of_its_rows():
    table = np.array([[1, 2, 3], [1, 2, 4]])
    assert build_forest(table).tokens.tolist() == [1, 2, 3, 4]


def test_the_order_of_the_sequences_changes_paths_only():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 3, rng.integers(0, 8)) for _ in range(40)]
    order = rng.permutation(len(sequences))
    one, other = build_forest(sequences), build_forest([sequences[n] for n in order])
    for name in ("tokens", "depth", "end"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for place, n in enumerate(order):
        np.testing.assert_array_equal(one.paths[n], other.paths[place])


def test_the_inputs_stay_as_they_were():
    sequences = [np.array([2, 1]), np.array([2])]
    forest = build_forest(sequences)
    forest.paths[0][:] = 0
    assert [s.tolist() for s in sequences] == [[2, 1], [2]]


@given(st.lists(st.one_of(few_tokens, any_tokens), max_size=8))
def test_rows_sort_like_tuples_and_share_what_they_share(sequences):
    ragged = Ragged.of(sequences)
    lengths, table = ragged.lengths, pad(ragged)
    order = sort_rows(table)
    ranked = [tuple(sequences[n]) for n in order]
    assert ranked == sorted(map(tuple, sequences))
    shared = common_prefixes(table[order], lengths[order])
    for place in range(1, len(ranked)):
        a, b = ranked[place - 1], ranked[place]
        assert shared[place] == next(
            (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
        )
    assert not shared[:1].any()
