"""Goodreads as UCSD publishes it: interactions or reviews, and books, a JSON object a line, whole or of one genre.

An event is a book that a user put on a shelf (`date_added`), read or not, whatever its rating.
https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html
"""

from pathlib import Path

import polars as pl

from cftrec.data.sources.log import Log, SourceOptions, complete, event_frame, item_frame, make_log
from cftrec.data.sources.records import read_records, record_files
from cftrec.data.sources.sheet import dates
from cftrec.errors import InputError

_LOG, _ITEMS = ("user_id", "book_id", "date_added"), ("book_id", "title")
_OTHERS = ("publication_year", "publisher", "language_code")


def recognise(source: Path) -> str | None:
    """Say which files hold the interactions and the books."""
    found = record_files(source, set(_LOG), set(_ITEMS))
    return f"Goodreads, {found[0].name} with {found[1].name}" if found else None


def read(source: str | Path, options: SourceOptions, limit: int | None = None) -> Log:
    """Read a folder with one file of interactions or reviews and one of books, or the former beside the latter.

    Raises:
        InputError: a file is missing or there are several, or most of its lines cannot be read.
    """
    options.refuse_others("goodreads")
    found = record_files(Path(source), set(_LOG), set(_ITEMS))
    if found is None:
        raise InputError(f"{source}: no file of interactions, whose records have {', '.join(_LOG)}")
    user, item, time = _LOG
    log = read_records(found[0], dict.fromkeys(_LOG, pl.String), limit, _events)
    table = read_records(found[1], dict.fromkeys((*_ITEMS, *_OTHERS), pl.String), limit)
    events, rows = complete(log.frame, log.malformed)
    frame = item_frame(table.frame[item], table.frame["title"], table.frame.select(_OTHERS))
    columns = {"user": user, "item": item, "timestamp": time, "title": "title"}
    name = found[0].name.split(".")[0]
    return make_log(name, "goodreads", [log, table], events, frame, rows=rows, columns=columns)


def _events(part: pl.DataFrame) -> pl.DataFrame:
    user, item, time = _LOG
    return event_frame(part[user], part[item], dates(part[time], "%a %b %d %H:%M:%S %z %Y"))
