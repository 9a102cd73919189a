"""The Yelp Open Dataset: `yelp_academic_dataset_review.json` and `..._business.json`, a JSON object a line.

Many businesses share a name (chains): tell them apart with `same_title` or put the city into the prompt's `item_text`.
https://business.yelp.com/data/resources/open-dataset/
"""

from pathlib import Path

import polars as pl

from cftrec.data.sources.log import Log, SourceOptions, complete, event_frame, item_frame, make_log
from cftrec.data.sources.records import read_records, record_files
from cftrec.data.sources.sheet import dates
from cftrec.errors import InputError

_LOG, _ITEMS = ("user_id", "business_id", "date"), ("business_id", "name")
_OTHERS = ("city", "state", "categories")


def recognise(source: Path) -> str | None:
    """Say which files hold the reviews and the businesses."""
    found = record_files(source, {*_LOG, "stars"}, {*_ITEMS, "city"})
    return f"Yelp Open Dataset, {found[0].name} with {found[1].name}" if found else None


def read(source: str | Path, options: SourceOptions, limit: int | None = None) -> Log:
    """Read a folder with reviews and businesses, or the file of reviews beside that of businesses.

    Raises:
        InputError: a file is missing, or most of its lines cannot be read.
    """
    options.refuse_others("yelp")
    found = record_files(Path(source), {*_LOG, "stars"}, {*_ITEMS, "city"})
    if found is None:
        raise InputError(f"{source}: no file of reviews, whose records have {', '.join(_LOG)}, stars")
    user, item, time = _LOG
    reviews = read_records(found[0], dict.fromkeys(_LOG, pl.String), limit, _events)
    table = read_records(found[1], dict.fromkeys((*_ITEMS, *_OTHERS), pl.String), limit)
    events, rows = complete(reviews.frame, reviews.malformed)
    frame = item_frame(table.frame[item], table.frame["name"], table.frame.select(_OTHERS))
    columns = {"user": user, "item": item, "timestamp": time, "title": "name"}
    return make_log("yelp", "yelp", [reviews, table], events, frame, rows=rows, columns=columns)


def _events(part: pl.DataFrame) -> pl.DataFrame:
    user, item, time = _LOG
    return event_frame(part[user], part[item], dates(part[time], "%Y-%m-%d %H:%M:%S"))
