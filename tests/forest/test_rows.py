"""Rows hold every sequence once and keep their bound; passes hold every row once and keep theirs."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.forest import build_forest
from cftrec.forest.rows import cut_blocks, cut_rows, pack_passes, single_rows

sequence_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=14)


def trunks(seed: int) -> list[np.ndarray]:
    """Sequences that begin alike in groups, after a beginning that all of them share."""
    rng = np.random.default_rng(seed)
    root = rng.integers(0, 9, rng.integers(0, 6))
    grown = []
    for _ in range(rng.integers(1, 8)):
        trunk = np.concatenate([root, rng.integers(0, 9, rng.integers(1, 30))])
        for _ in range(rng.integers(1, 8)):
            grown.append(
                np.concatenate([trunk[: rng.integers(1, len(trunk) + 1)], rng.integers(0, 9, rng.integers(1, 9))])
            )
    return grown


def check_rows(sequences, row_tokens):
    rows = cut_rows(sequences, row_tokens)
    assert sorted(np.concatenate([row.members for row in rows]).tolist()) == list(range(len(sequences)))
    for row in rows:
        assert len(row) == len(row.forest.tokens)
        for member, path in zip(row.members, row.forest.paths, strict=True):
            assert row.forest.tokens[path].tolist() == list(sequences[member])
            assert row.forest.depth[path].tolist() == list(range(len(path)))
        held = {tuple(sequences[member]) for member in row.members}
        longest = max(map(len, held))
        assert len(row) <= row_tokens or len(row) == longest, "only one sequence and its beginnings may be longer"
    return rows


@given(sequence_lists, st.integers(1, 40))
@settings(max_examples=200)
def test_rows_hold_every_sequence_once(sequences, row_tokens):
    check_rows(sequences, row_tokens)


@given(st.integers(0, 10_000), st.integers(1, 80))
@settings(max_examples=150)
def test_rows_of_trunks(seed, row_tokens):
    check_rows(trunks(seed), row_tokens)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 200))
@settings(max_examples=100)
def test_passes_hold_every_row_once_and_keep_their_bound(seed, row_tokens, pass_tokens):
    rows = check_rows(trunks(seed), row_tokens)
    passes = pack_passes(rows, pass_tokens)
    assert sorted(id(row) for rows in passes for row in rows) == sorted(map(id, rows))
    for part in passes:
        width = max(map(len, part))
        assert width == len(part[0]), "a pass is as wide as its first row"
        assert len(part) == 1 or len(part) * width <= pass_tokens


def test_no_rows_make_no_passes():
    assert pack_passes([], 10) == []


def test_a_trunk_that_fits_a_row_stays_whole():
    rng = np.random.default_rng(0)
    root = rng.integers(0, 50, 4)
    users = [np.concatenate([root, rng.integers(0, 50, 20)]) for _ in range(10)]
    sequences = [user[:cut] for user in users for cut in (24, 20, 16)]
    rows = cut_rows([sequences[n] for n in rng.permutation(len(sequences))], 64)
    assert sum(map(len, rows)) == len(build_forest(sequences).tokens) + 4 * (len(rows) - 1), "only the root repeats"
    assert len(rows) == 4  # 4 + 3 x 20 fill a row


def test_one_row_where_everything_fits():
    sequences = trunks(1)
    (row,) = cut_rows(sequences, 10_000)
    assert len(row) == len(build_forest(sequences).tokens)


@given(sequence_lists)
def test_single_rows_share_nothing(sequences):
    rows = single_rows(sequences)
    assert [row.members.tolist() for row in rows] == [[number] for number in range(len(sequences))]
    for row, sequence in zip(rows, sequences, strict=True):
        alone = build_forest([sequence])
        for name in ("tokens", "depth", "end"):
            assert getattr(row.forest, name).tolist() == getattr(alone, name).tolist()
        assert row.forest.paths[0].tolist() == alone.paths[0].tolist()


def cost_of(depth, cuts, call):
    sizes = np.diff(cuts)
    return int((call + sizes * (depth[cuts[:-1]] + sizes)).sum())


@given(st.integers(0, 10_000), st.sampled_from([0, 1, 300, 5_000, 10**6]))
@settings(max_examples=60)
def test_blocks_are_cut_where_attention_costs_least(seed, call):
    """Against all ways to choose some of the places; with 32 nodes to a place there are few in a small forest."""
    depth = build_forest(trunks(seed)).depth
    cuts = cut_blocks(depth, call)
    assert cuts[0] == 0
    assert cuts[-1] == len(depth)
    assert (np.diff(cuts) > 0).all()
    windows = [depth[begin : begin + 32] for begin in range(32, len(depth), 32)]
    places = [32 * (n + 1) + int(window.argmin()) for n, window in enumerate(windows)]
    assert set(cuts[1:-1].tolist()) <= set(places)
    chosen = [[p for n, p in enumerate(places) if pick >> n & 1] for pick in range(2 ** len(places))]
    assert cost_of(depth, cuts, call) == min(cost_of(depth, np.array([0, *c, len(depth)]), call) for c in chosen)


def test_a_dear_call_makes_one_block_and_a_cheap_one_many():
    depth = np.arange(400)
    assert cut_blocks(depth, 10**6).tolist() == [0, 400]
    assert len(cut_blocks(depth, 0)) == 14
