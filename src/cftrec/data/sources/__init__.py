"""Public formats of interaction logs, one module each, and the functions that find and read any of them."""

from pathlib import Path
from typing import Protocol

from cftrec.data.sources import (
    alpaca,
    amazon,
    goodreads,
    lastfm,
    movielens,
    recbole,
    splits,
    steam,
    table,
    yelp,
)
from cftrec.data.sources.log import Log, SourceOptions
from cftrec.data.sources.sheet import listed, quoted
from cftrec.errors import InputError

AUTO = "auto"


class Source(Protocol):
    """What the module of a format offers."""

    def recognise(self, source: Path) -> str | None:
        """Say what of this format a folder or file holds, or None where it is of another."""

    def read(self, source: str | Path, options: SourceOptions, limit: int | None = None) -> Log:
        """Read the log; with `limit` about so many lines of each file, to see what is there."""


# In the order in which a folder is looked at; `table` takes what nothing else knows.
SOURCES: dict[str, Source] = {
    "recbole": recbole,
    "movielens": movielens,
    "amazon": amazon,
    "steam": steam,
    "lastfm": lastfm,
    "goodreads": goodreads,
    "yelp": yelp,
    "splits": splits,
    "alpaca": alpaca,
    "table": table,
}


def read_source(path: str | Path, format: str, options: SourceOptions, limit: int | None = None) -> Log:
    """Read a log of a known format.

    Args:
        path: a folder or file, or `installed` (movielens).
        format: a key of `SOURCES`, or `auto`, which looks at the folder or file.
        options: where the columns are.
        limit: look at about so many lines of each file only; None for all.

    Raises:
        InputError: an unknown format, or the source cannot be read; one line that names file, row or option.
    """
    if format == AUTO:
        format, _ = recognise(path)
    return _source(format).read(path, options, limit)


def recognise(path: str | Path, format: str = AUTO) -> tuple[str, str]:
    """Look at a folder or file and return its format and what of it was seen.

    Raises:
        InputError: it is of no known format. Whether it is of the given one tells `read_source`.
    """
    if not Path(path).exists() and str(path) != movielens.INSTALLED:
        raise InputError(f"{path}: no such file or folder; name the log's")
    if format != AUTO:
        return format, _source(format).recognise(Path(path)) or "as you say"
    for name, source in SOURCES.items():
        seen = source.recognise(Path(path))
        if seen is not None:
            return name, seen
    raise InputError(
        f"{path}: none of the formats {listed(list(SOURCES))}; docs/data.md lists the files that each expects (a table "
        "needs its columns named)"
    )


def _source(format: str) -> Source:
    if format not in SOURCES:
        raise InputError(f"unknown format {quoted(format)}; known are {listed([AUTO, *SOURCES])}")
    return SOURCES[format]


__all__ = ["AUTO", "SOURCES", "Log", "SourceOptions", "read_source", "recognise"]
