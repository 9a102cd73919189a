"""Any table whose columns are named by options: CSV, TSV, Parquet or JSON lines, told apart by the name's ending."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from cftrec.data.sources.lines import Lines
from cftrec.data.sources.log import Log, SourceOptions, all_rows, event_frame, item_frame, make_log
from cftrec.data.sources.sheet import Sheet, read_table
from cftrec.data.sources.stream import read_log
from cftrec.data.sources.typed import read_typed_log
from cftrec.errors import InputError

_USED = ("user_column", "item_column", "timestamp_column", "title_column", "items", "items_item_column")


def recognise(source: Path) -> str | None:
    """Say what kind of table a file is."""
    known = source.suffix.lower() in (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
    return f"a table ({source.name})" if known and source.is_file() else None


def read(source: str | Path, options: SourceOptions, limit: int | None = None) -> Log:
    """Read a log that is one table, an event a row, and its titles from there or from a table of items.

    Without `timestamp_column` the rows are in order of time. Titles found in the log are each item's first that is
    not empty; a table of items also gives its other columns.

    Raises:
        InputError: a file or column is missing, or a row cannot be read.
    """
    options.refuse_others("table", _USED)
    user, item = options.user_column or "user_id", options.item_column or "item_id"
    time, title = options.timestamp_column, options.title_column or "title"
    own_titles = options.items is None
    if own_titles and options.items_item_column is not None:
        raise InputError("option items_item_column: there is no file of items; give it with option items")

    def take(sheet: Sheet) -> pl.DataFrame:
        events = event_frame(
            sheet.ids(user, "user_column"),
            sheet.ids(item, "item_column"),
            sheet.times(time, "timestamp_column") if time else None,
        )
        return events.with_columns(_text(sheet, title).alias("title")) if own_titles else events

    wanted = [user, item, *([time] if time else []), *([title] if own_titles else [])]
    log = _read_log(Path(source), wanted, take, limit)
    sheets: list[Sheet | Lines] = [log]
    if options.items is None:
        items = _titles_in_log(log.frame)
    else:
        table = read_table(Path(options.items), limit)
        sheets.append(table)
        items = _items(table, options.items_item_column, item, title)
    events = log.frame.select("user", "item", "timestamp")
    columns = {"user": user, "item": item, "timestamp": time, "title": title}
    rows = all_rows(events.height)
    return make_log(Path(source).name, "table", sheets, events, items, rows=rows, columns=columns)


def _items(table: Sheet, own_item: str | None, item: str, title: str) -> pl.DataFrame:
    ids = table.ids(own_item, "items_item_column") if own_item else table.ids(item, "items_item_column")
    titles = _text(table, title)
    others = [column for column in table.frame.columns if column not in (own_item or item, title)]
    return item_frame(ids, titles, table.texts(others))


def _read_log(path: Path, columns: list[str], take: Callable[[Sheet], pl.DataFrame], limit: int | None) -> Lines:
    """Read the columns of the log, part by part."""
    separator = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    if separator is not None and path.is_file():
        return read_log(path, separator, take, quotes=True, limit=limit)
    return read_typed_log(path, columns, take, limit=limit)


def _titles_in_log(events: pl.DataFrame) -> pl.DataFrame:
    given = events.select(pl.col("item").alias("item_id"), "title").unique(maintain_order=True)
    first = pl.col("title").filter(pl.col("title").str.contains(r"\S")).first()
    return given.cast(pl.String).group_by("item_id", maintain_order=True).agg(first)


def _text(sheet: Sheet, title: str) -> pl.Series:
    sheet.column(title, "title_column")  # so that a missing one names the option
    titles = sheet.texts([title])
    if titles.width == 0:
        raise InputError(f"{sheet.path}: column '{title}' holds no plain values; titles must be text")
    return titles.to_series()
