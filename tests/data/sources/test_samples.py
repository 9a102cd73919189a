"""Given samples against their definition: every row's history and target stand in its events as the row says."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.data.sources.samples import lists, nest
from cftrec.ragged import Ragged

WINDOW = 4
ROWS = st.lists(
    st.tuples(st.sampled_from("uv"), st.lists(st.integers(0, 3), min_size=1, max_size=WINDOW), st.integers(0, 3)),
    min_size=1,
    max_size=12,
)


def joined(rows: list[tuple[str, list[int], int]]) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Return the codes and places of each chain, and the rows that continue none."""
    users, histories, targets = zip(*rows, strict=True)
    chains, alone = nest(users, Ragged.of(histories), np.array(targets))
    return [chain.codes for chain in chains], [chain.places for chain in chains], alone


@given(ROWS)
@settings(max_examples=150)
def test_each_row_is_a_sample_of_its_chain(rows: list[tuple[str, list[int], int]]) -> None:
    chains, places, alone = joined(rows)
    longest = max(len(history) for _, history, _ in rows)
    entries = sum(len(history) for _, history, _ in rows)
    everything = [item for _, history, _ in rows for item in history] + [target for *_, target in rows]
    for codes, stood in zip(chains, places, strict=True):
        assert [everything[place] for place in stood] == codes
    found = {place: (chain, at) for chain, stood in enumerate(places) for at, place in enumerate(stood)}
    for row, (_, history, target) in enumerate(rows):
        chain, at = found[entries + row]
        before = chains[chain][:at]
        assert chains[chain][at] == target
        assert before[-len(history) :] == history
        assert before == history or len(history) == longest  # a window hides nothing unless it is full
    assert len(chains) == len({user for user, *_ in rows}) + len(alone)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=15), st.integers(1, 15))
def test_the_rows_of_a_window_that_slides_are_one_user(events: list[int], window: int) -> None:
    rows = [("u", events[max(0, end - window) : end], events[end]) for end in range(1, len(events))]
    chains, places, alone = joined(rows)
    assert (chains, alone) == ([events], [])
    assert all(a < b for a, b in pairwise(places[0][1:]))


def test_rows_that_are_missing_between_are_filled_from_histories() -> None:
    rows = [("u", [1], 2), ("u", [1, 2, 3], 4), ("u", [2, 3, 4], 5), ("u", [5, 6, 7], 8), ("u", [2, 3], 9)]
    chains, _, alone = joined(rows)
    assert chains == [[1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 9]]
    assert alone == [4]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("[1, 2]", ["1", "2"]),
        ("[1,2]", ["1", "2"]),
        ("[-1.5]", ["-1.5"]),
        ("[]", []),
        ("['a', \"b's, c\"]", ["a", "b's, c"]),
        ("('a',)", ["a"]),
        ("[1, 'a']", ["1", "a"]),
        ("[1, 2", None),
        ("[1 2]", None),
        ("7", None),
        ("", None),
        (None, None),
        ("[__import__('os')]", None),
        ("[" * 300, None),
    ],
)
def test_lists_are_literals(cell: str | None, expected: list[str] | None) -> None:
    assert lists(pl.Series([cell, "[3]"], dtype=pl.String)).to_list() == [expected, ["3"]]
