"""Public formats of interaction logs, one module each, and the one function that reads any of them."""

from collections.abc import Callable
from pathlib import Path

from cftrec.data.sources import movielens, recbole, table
from cftrec.data.sources.log import Log, SourceOptions
from cftrec.data.sources.sheet import listed, quoted
from cftrec.errors import InputError

SOURCES: dict[str, Callable[[str | Path, SourceOptions], Log]] = {
    "recbole": recbole.read,
    "movielens": movielens.read,
    "table": table.read,
}


def read_source(path: str | Path, format: str, options: SourceOptions) -> Log:
    """Read a log of a known format.

    Args:
        path: a folder (recbole, movielens), a file (table), or `installed` (movielens).
        format: a key of `SOURCES`.
        options: where the columns are.

    Raises:
        InputError: an unknown format, or the source cannot be read; one line that names file, row or option.
    """
    if format not in SOURCES:
        raise InputError(f"unknown format {quoted(format)}; known are {listed(list(SOURCES))}")
    return SOURCES[format](path, options)


__all__ = ["SOURCES", "Log", "SourceOptions", "read_source"]
