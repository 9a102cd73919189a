"""Amazon Reviews of 2014, 2018 and 2023: reviews and the items' metadata, a record a line.

2014 and 2018: `reviewerID`, `asin`, `unixReviewTime` in seconds; the metadata of 2014 are Python literals. 2023:
`user_id`, `parent_asin`, `timestamp` in milliseconds. Every review is an event, whatever its stars.
https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html, .../amazon_v2/ and https://amazon-reviews-2023.github.io
"""

from pathlib import Path

import polars as pl

from cftrec.data.sources.log import Log, SourceOptions, complete, event_frame, item_frame, make_log
from cftrec.data.sources.records import read_records, record_files
from cftrec.data.sources.sheet import numbers
from cftrec.errors import InputError

_EARLY, _LATE = ("reviewerID", "asin", "unixReviewTime"), ("user_id", "parent_asin", "timestamp")
_OTHERS = ("brand", "store", "main_cat", "main_category", "price")


def recognise(source: Path) -> str | None:
    """Say which release a folder or file of reviews is of."""
    found = _find(source)
    return f"Amazon Reviews {found[3]}, {found[0].name} with {found[1].name}" if found else None


def read(source: str | Path, options: SourceOptions, limit: int | None = None) -> Log:
    """Read a folder with one file of reviews and its metadata, or the file of reviews beside its metadata.

    Raises:
        InputError: no reviews or metadata, several of them, or most lines of a file cannot be read.
    """
    options.refuse_others("amazon")
    found = _find(Path(source))
    if found is None:
        raise InputError(f"{source}: no file of reviews, whose records have {' or '.join(map(str, (_EARLY, _LATE)))}")
    log, items, (user, item, time), release = found
    fields = dict.fromkeys((user, item, time), pl.String)
    reviews = read_records(log, fields, limit, lambda part: event_frame(part[user], part[item], numbers(part[time])))
    table = read_records(items, dict.fromkeys((item, "title", *_OTHERS), pl.String), limit)
    events, rows = complete(reviews.frame, reviews.malformed)
    others = table.frame.select(name for name in _OTHERS if table.frame[name].null_count() < table.frame.height)
    frame = item_frame(table.frame[item], table.frame["title"], others)
    columns = {"user": user, "item": item, "timestamp": time, "title": "title"}
    name = f"amazon-{release}-{log.name.split('.')[0]}"
    return make_log(name, "amazon", [reviews, table], events, frame, rows=rows, columns=columns)


def _find(source: Path) -> tuple[Path, Path, tuple[str, str, str], str] | None:
    """Return the file of reviews, the metadata, the fields of user, item and time, and the release."""
    for columns in (_EARLY, _LATE):
        found = record_files(source, set(columns), {columns[1], "title"}, unlike=frozenset(columns[:1]))
        if found:
            early = "2018" if "verified" in found[2] else "2014"
            return found[0], found[1], columns, early if columns == _EARLY else "2023"
    return None
