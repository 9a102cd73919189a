"""Titles as readers see them: entities resolved, white space single, nothing invisible, the year where it is known."""

import html
import re
from html.entities import html5

import polars as pl

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]*);")
# Control characters that are no white space, and marks without width (joiners stay: scripts and emoji need them).
_INVISIBLE = r"[\x00-\x08\x0E-\x1F\x7F-\x84\x86-\x9F\u00AD\u200B\u200E\u200F\u202A-\u202E\u2060\u2066-\u2069\uFEFF]"
_YEAR = r"^\s*([12][0-9]{3})(?:\.0)?\s*$"
_ENDS_IN_YEAR = r"[(\[][12][0-9]{3}[)\]]$"


def clean(texts: pl.Series) -> pl.Series:
    """Return texts without HTML entities, control characters and any white space but single blanks.

    Repeated until nothing changes, so that titles escaped twice come out whole and cleaning again changes nothing.
    Nulls stay null; the length and order stay.
    """
    while True:
        cleaned = _clean_once(texts)
        if cleaned.equals(texts, null_equal=True):
            return cleaned
        texts = cleaned


def _clean_once(texts: pl.Series) -> pl.Series:
    escaped = texts.str.contains("&", literal=True).fill_null(False).arg_true()
    if len(escaped):
        plain = [_ENTITY.sub(_unescape, text) for text in texts.gather(escaped)]
        texts = texts.clone().scatter(escaped, plain)  # a clone, for scatter writes in place
    return texts.str.replace_all(_INVISIBLE, "").str.replace_all(r"\s+", " ").str.strip_chars()


def _unescape(entity: re.Match[str]) -> str:
    """Resolve one entity that ends in a semicolon; HTML's bare ones (`&copy` in `R&copyright`) are text here."""
    whole = entity[0]
    return html.unescape(whole) if whole[1] == "#" or whole[1:] in html5 else whole


def year_column(columns: list[str]) -> str | None:
    """Return the column that holds years by its name: `year`, `release_year`, or the first that ends in `_year`."""
    named = [column for column in ("year", "release_year") if column in columns]
    return next(iter(named + [column for column in columns if column.endswith("_year")]), None)


def join_year(titles: pl.Series, years: pl.Series) -> pl.Series:
    """Append each year to its title, as "Star Wars (1977)".

    A title stays as it is where the year is none (four digits, 1000 to 2999), the title is empty or null, or it
    already ends in a year in brackets or in this very year.
    """
    frame = pl.DataFrame([titles.alias("title"), years.alias("year")])
    title, year = pl.col("title"), pl.col("year").str.extract(_YEAR, 1)
    stays = year.is_null() | (title == "") | title.str.contains(_ENDS_IN_YEAR) | title.str.ends_with(year)
    return frame.select(pl.when(stays).then(title).otherwise(pl.format("{} ({})", title, year))).to_series()
