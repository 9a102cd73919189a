"""What every source gives: a log of who took what, in which order, and the items with their titles."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import polars as pl

from cftrec.data.sources.sheet import Sheet
from cftrec.errors import InputError


@dataclass(frozen=True)
class SourceOptions:
    """Where a source's columns are found.

    Args:
        user_column: column of user ids (recbole and table; default user_id).
        item_column: column of item ids (recbole and table; default item_id).
        timestamp_column: column of timestamps, numbers in one unit, kept as given (recbole: default timestamp where there is one; table: default none, which keeps the order of the rows).
        title_column: column of item titles (table: default title; recbole: default title, name, or the first column that ends in _title or _name).
        items: file of items beside the log (table; CSV, TSV, Parquet or JSON lines; default none, which takes titles from the log).
        items_item_column: column of item ids in the file of items (table; default the same as item_column).
    """  # noqa: E501 - the command line shows each entry as its help, a line each

    user_column: str | None = None
    item_column: str | None = None
    timestamp_column: str | None = None
    title_column: str | None = None
    items: str | None = None
    items_item_column: str | None = None

    def refuse_others(self, format: str, used: tuple[str, ...] = ()) -> None:
        """Raise `InputError` where an option is given that the format makes no use of."""
        for field in fields(SourceOptions):
            if field.name not in used and getattr(self, field.name) is not None:
                taken = f"it takes {', '.join(used)}" if used else "its columns are known"
                raise InputError(f"option {field.name}: the format {format} does not use it ({taken}); leave it out")


@dataclass(frozen=True, eq=False)
class Log:
    """A source as read, before any preparation.

    Attributes:
        events: one row an event, in the order of the source: `user` str, `item` str, `timestamp` int64, or
            float64 where one has a fraction (in the source's unit; null in every row of a source that has none).
        items: one row an item, in the order of the source: `item_id` str (unique), `title` str or null, then the
            source's other columns as str. The log may hold items that are not here, and the other way round.
        facts: for the manifest: name, format, files with SHA-256, columns used, rows read and kept with named drops.
    """

    events: pl.DataFrame
    items: pl.DataFrame
    facts: dict[str, Any]


def make_log(
    name: str,
    format: str,
    sheets: list[Sheet],
    events: pl.DataFrame,
    items: pl.DataFrame,
    *,
    rows: Mapping[str, Any],
    columns: Mapping[str, str | None],
) -> Log:
    """Put a Log together; of several rows with one item id the first stays, and the others are counted.

    Args:
        name: name of the source (never its folder on this machine).
        format: the format's name.
        sheets: the files read.
        events: as in `Log`.
        items: as in `Log`, ids not yet unique.
        rows: rows of the log: {"in", "kept", "dropped": {name: rows}}.
        columns: what each column was taken for.

    Raises:
        InputError: the log has no event.
    """
    if events.is_empty():
        raise InputError(f"{sheets[0].path}: the log holds no event; give one with at least one row")
    unique = items.unique("item_id", keep="first", maintain_order=True)
    repeated = items.height - unique.height
    facts = {
        "name": name,
        "format": format,
        "files": [sheet.facts for sheet in sheets],
        "columns": dict(columns),
        "log_rows": dict(rows),
        "item_rows": {"in": items.height, "kept": unique.height, "dropped": {"repeated_item_id": repeated}},
    }
    return Log(events, unique, facts)


def all_rows(count: int) -> dict[str, Any]:
    """Return the account of a log whose every row is one event."""
    return {"in": count, "kept": count, "dropped": {}}


def event_frame(users: pl.Series, items: pl.Series, timestamps: pl.Series | None) -> pl.DataFrame:
    """Return the events of a Log from its three columns; no timestamps make a column of nulls."""
    if timestamps is None:
        timestamps = pl.Series("timestamp", [None], dtype=pl.Int64).new_from_index(0, len(users))
    return pl.DataFrame([users.alias("user"), items.alias("item"), timestamps.alias("timestamp")])


def item_frame(ids: pl.Series, titles: pl.Series, others: pl.DataFrame) -> pl.DataFrame:
    """Return the items of a Log; another column that is called as one of ours gets `source_` before its name."""
    taken: dict[str, str] = {name: f"source_{name}" for name in ("item_id", "title") if name in others.columns}
    return pl.DataFrame([ids.alias("item_id"), titles.alias("title"), *others.rename(taken).get_columns()])
