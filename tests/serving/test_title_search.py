"""Finding titles as they are typed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftrec.serving.titles import TitleIndex
from cftrec.text import Catalogue

TITLES = ["The Alien", "Alien", "Salient Facts", "Alien", "Return of the Jedi (1983)", "Amélie 🎬", "!!!"]
COUNTS = [9, 2, 99, 5, 7, 1, 0]


def index_of(titles, counts=None) -> TitleIndex:
    sequences = [[place + 1] for place in range(len(titles))]
    counts = np.zeros(len(titles), dtype=np.int64) if counts is None else np.array(counts)
    return TitleIndex.of(Catalogue.build([str(n) for n in range(len(titles))], titles, sequences, counts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alien", [3, 1, 0, 2]),  # begins, begins (less frequent), a word does, contains
        ("ALIE", [3, 1, 0, 2]),
        ("jedi", [4]),
        ("retrun of teh jedi", [4]),
        ("amélie", [5]),
        ("", [2, 0, 4]),
        ("qqqqq", []),
        ("?!", []),
        ("!!!", [6]),
        (" !! ", [6]),
        ("🎬", [5]),
    ],
)
def test_order(text, expected):
    assert index_of(TITLES, COUNTS).find(text, 3 if not text else 9) == expected


def test_a_whole_title_comes_before_those_that_it_begins():
    titles = ["Doom II", "Doom", "C++", "C#", "C", "C!", "?", "???"]
    index = index_of(titles, [9, 1, 8, 7, 1, 5, 2, 4])
    for title in titles:
        for text in (title, title.lower(), f" {title} "):
            assert index.find(text, 1) == [titles.index(title)]
    assert index.find("c", 8)[:4] == [4, 2, 3, 5]


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=8), st.text(max_size=9), st.integers(1, 5))
def test_any_text_finds_items_once_and_no_more_than_asked(titles, text, limit):
    found = index_of(titles).find(text, limit)
    assert len(found) == len(set(found)) <= limit
    assert set(found) <= set(range(len(titles)))


@given(st.lists(st.text("abc e!?", max_size=6), min_size=1, max_size=8), st.data())
def test_a_whole_title_finds_itself(titles, data):
    item = data.draw(st.integers(0, len(titles) - 1))
    plain = titles[item].strip()
    if plain:
        (found,) = index_of(titles).find(plain, 1)
        assert titles[found].strip() == plain
