import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftrec.errors import InputError
from cftrec.text import Trie, build_trie

# Few tokens and short sequences: prefixes of one another and equal sequences are common.
sequences = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=12)


def flat(rows: list[list[int]]) -> tuple[list[int], np.ndarray]:
    return [t for s in rows for t in s], np.concatenate(([0], np.cumsum([len(s) for s in rows])))


def trie_of(rows: list[list[int]]) -> Trie:
    return build_trie(*flat(rows))


def naive(rows: list[list[int]]) -> list[tuple[int, ...]]:
    """Every distinct prefix; sorted tuples are the preorder with ascending children."""
    return sorted({tuple(s[:n]) for s in rows for n in range(len(s) + 1)})


@given(sequences)
def test_equals_the_naive_trie(rows):
    trie, prefixes = trie_of(rows), naive(rows)
    number = {prefix: node for node, prefix in enumerate(prefixes)}
    assert len(trie) == len(prefixes)
    for node, prefix in enumerate(prefixes):
        assert trie.depth[node] == len(prefix)
        assert trie.token[node] == (prefix[-1] if prefix else -1)
        assert trie.parent[node] == (number[prefix[:-1]] if prefix else -1)
        under = [n for n, other in enumerate(prefixes) if other[: len(prefix)] == prefix]
        assert list(range(node, trie.end[node])) == under
        children = [n for n in under if len(prefixes[n]) == len(prefix) + 1]
        assert trie.children[trie.child_offsets[node] : trie.child_offsets[node + 1]].tolist() == children
        assert trie.child_counts[node] == len(children)
        assert trie.choices[node] == (len(children) > 1)
        items = [i for i, s in enumerate(rows) if tuple(s) == prefix]
        assert trie.terminal_items[trie.terminal_offsets[node] : trie.terminal_offsets[node + 1]].tolist() == items
    for item, sequence in enumerate(rows):
        path = [number[tuple(sequence[: n + 1])] for n in range(len(sequence))]
        assert trie.path(item).tolist() == path
        assert trie.item_node[item] == path[-1]


@given(sequences)
def test_arrays_have_their_shapes_and_types(rows):
    trie = trie_of(rows)
    n, items = len(trie), len(rows)
    for name in ("token", "parent", "depth", "end", "children", "terminal_items", "item_node", "paths", "child_counts"):
        assert getattr(trie, name).dtype == np.int32, name
    assert trie.child_offsets.dtype == trie.terminal_offsets.dtype == np.int64
    assert (len(trie.children), len(trie.child_offsets), len(trie.terminal_offsets)) == (n - 1, n + 1, n + 1)
    assert len(trie.terminal_items) == len(trie.item_node) == items
    siblings = np.diff(trie.token[trie.children])[np.diff(trie.parent[trie.children]) == 0]
    assert (siblings > 0).all()


def test_a_title_that_begins_another_and_two_equal_ones():
    trie = trie_of([[5, 6], [5], [5, 6], [7]])
    assert trie.token.tolist() == [-1, 5, 6, 7]
    assert trie.item_node.tolist() == [2, 1, 2, 3]
    assert trie.terminal_items.tolist() == [1, 0, 2, 3]
    assert trie.end.tolist() == [4, 3, 3, 4]


def test_one_item_is_a_chain():
    trie = trie_of([[9, 0, 9]])
    assert trie.token.tolist() == [-1, 9, 0, 9]
    assert trie.parent.tolist() == [-1, 0, 1, 2]
    assert not trie.choices.any()


def test_no_item_or_an_empty_sequence_is_refused():
    with pytest.raises(InputError, match="empty"):
        build_trie([], [0])
    with pytest.raises(InputError, match="item 1 "):
        build_trie([1, 2], [0, 1, 1, 2])


def test_a_large_catalogue_is_built_fast():
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 20, 17_000)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    tokens = np.where(
        rng.random(offsets[-1]) < 0.5, rng.integers(0, 4, offsets[-1]), rng.integers(0, 49_000, offsets[-1])
    )
    start = time.perf_counter()
    trie = build_trie(tokens, offsets)
    assert time.perf_counter() - start < 1
    assert len(trie) > 150_000
    assert (trie.token[trie.paths] == tokens).all()


def test_one_long_sequence_among_many_short_ones():
    long = list(range(300))
    trie = trie_of([long, *([n] for n in range(300))])
    assert len(trie) == 1 + 300 + 299
    assert trie.depth.max() == 300
