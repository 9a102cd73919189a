import html

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from cftrec.data.titles import clean, join_year, year_column

PIECES = st.sampled_from(
    ["&amp;", "&", "amp;", "#39;", "&#x26;", " ", "\u00a0", "\t", "\n", "\x07", "\ufeff", "é", "A"]
)


def cleaned(text: str) -> str:
    return clean(pl.Series([text]))[0]


def test_entities_are_resolved_until_nothing_changes() -> None:
    assert cleaned("Tom &amp;amp;amp; Jerry&#39;s &eacute;t&eacute; &#x201C;x&rdquo;") == "Tom & Jerry's été “x”"
    assert cleaned("Sid &amp;quot;Meier&amp;quot;") == 'Sid "Meier"'


def test_bare_ampersands_are_text() -> None:
    for title in ("R&copyright", "Q&A", "Rock&Roll; live", "AT&T", "&", "&;", "&#;"):
        assert cleaned(title) == title


def test_white_space_is_single_and_control_characters_go() -> None:
    assert cleaned(" \ufeffStar\u00a0 \t\r\nWars:\u2003IV\u200b\x00\x1f \x07 (1977)\u3000") == "Star Wars: IV (1977)"
    assert cleaned("&nbsp;&#9;") == ""


def test_nulls_and_order_stay() -> None:
    given_texts = ["b ", None, "", "a&lt;"]
    texts = pl.Series(given_texts)
    assert clean(texts).to_list() == ["b", None, "", "a<"]
    assert texts.to_list() == given_texts  # the argument is not written into


@given(st.lists(st.text(max_size=6) | PIECES, max_size=12).map("".join))
def test_cleaning_again_changes_nothing(text: str) -> None:
    once = cleaned(text)
    assert cleaned(once) == once
    assert once == " ".join(once.split(" ")) and not once.startswith(" ") and not once.endswith(" ")
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in once)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20), st.integers(1, 4))
def test_any_number_of_escapes_comes_out(text: str, times: int) -> None:
    escaped = text
    for _ in range(times):
        escaped = html.escape(escaped)
    assert cleaned(escaped) == cleaned(text)


def test_year_is_joined_where_it_is_one_and_missing() -> None:
    rows = [
        ("Star Wars", "1977", "Star Wars (1977)"),
        ("Star Wars (1977)", "1977", "Star Wars (1977)"),
        ("Star Wars (1977)", "1997", "Star Wars (1977)"),
        ("Death Race 2000", "1975", "Death Race 2000 (1975)"),
        ("FIFA 2015", "2015", "FIFA 2015"),
        ("unkonwn", "unkonwn", "unkonwn"),
        ("Land Before Time III", "V", "Land Before Time III"),
        ("Heat", "1995.0", "Heat (1995)"),
        ("Heat", None, "Heat"),
        ("Heat", "19950", "Heat"),
        ("", "1995", ""),
        (None, "1995", None),
    ]
    titles, years, expected = (pl.Series([row[i] for row in rows], dtype=pl.String) for i in range(3))
    assert join_year(titles, years).to_list() == expected.to_list()


def test_year_column_by_name() -> None:
    assert year_column(["class", "publication_year", "year"]) == "year"
    assert year_column(["class", "publication_year"]) == "publication_year"
    assert year_column(["yearly", "class"]) is None
