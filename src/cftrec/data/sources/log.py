"""What every source gives: a log of who took what, in which order, and the items with their titles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import polars as pl

from cftrec.data.sources.lines import Lines
from cftrec.data.sources.sheet import Sheet, numbers
from cftrec.errors import InputError

# Medians of timestamps from which on they are no seconds: 1e11 is the year 5138 in seconds, 1973 in milliseconds.
_UNITS = ((1e17, "nanoseconds", 1e9), (1e14, "microseconds", 1e6), (1e11, "milliseconds", 1e3))


@dataclass(frozen=True)
class SourceOptions:
    """Where a source's columns are found.

    Args:
        user_column: column of user ids (recbole and table; default user_id).
        item_column: column of item ids (recbole and table; default item_id).
        timestamp_column: column of timestamps, numbers in one unit; milli-, micro- and nanoseconds since 1970 are brought to seconds (recbole: default timestamp where there is one; table: default none, which keeps the order of the rows).
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
        events: one row an event, in the order of the source: `user` and `item` str or, of a long log, categories;
            `timestamp` int64, or float64 where one has a fraction (seconds, or what the source counts in; null in
            every row of a source that has none).
        items: one row an item, in the order of the source: `item_id` str (unique), `title` str or null, then the
            source's other columns as str. The log may hold items that are not here, and the other way round.
        facts: for the manifest: name, format, files with SHA-256, columns used, unit of the timestamps, rows read and
            kept with named drops.
        split: of a source with given splits, uint8 [E], index into `SPLITS` or `CONTEXT`, its events in order within
            each user; else None.
    """

    events: pl.DataFrame
    items: pl.DataFrame
    facts: dict[str, Any]
    split: pl.Series | None = None


def make_log(
    name: str,
    format: str,
    sheets: Sequence[Sheet | Lines],
    events: pl.DataFrame,
    items: pl.DataFrame,
    *,
    rows: Mapping[str, Any],
    columns: Mapping[str, str | None],
    rows_are: str = "events",
    split: pl.Series | None = None,
) -> Log:
    """Put a Log together, its timestamps in seconds; of several rows with one item id the first stays.

    Args:
        name: name of the source (never its folder on this machine).
        format: the format's name.
        sheets: the files read.
        events: as in `Log`.
        items: as in `Log`, ids not yet unique.
        rows: rows of the log: {"in", "kept", "dropped": {name: rows}}.
        columns: what each column was taken for.
        rows_are: events, sequences, or samples.
        split: as in `Log`.

    Raises:
        InputError: the log has no event.
    """
    if events.is_empty():
        raise InputError(f"{sheets[0].path}: the log holds no event; give one with at least one row")
    named = items.filter(has_text("item_id"))
    unique = named.unique("item_id", keep="first", maintain_order=True)
    dropped = {"repeated_item_id": named.height - unique.height}
    if len(sheets) > 1 and isinstance(sheets[-1], Lines):
        dropped |= {"malformed": sheets[-1].malformed, "without_item_id": items.height - named.height}
    events, unit = _in_seconds(events)
    facts = {
        "name": name,
        "format": format,
        "files": [{"rows": sheet.frame.height} | sheet.facts for sheet in sheets],
        "columns": dict(columns),
        "timestamp_unit": unit,
        "rows_are": rows_are,
        "log_rows": dict(rows),
        "item_rows": {"in": unique.height + sum(dropped.values()), "kept": unique.height, "dropped": dropped},
    }
    return Log(events, unique, facts, split)


def _in_seconds(events: pl.DataFrame) -> tuple[pl.DataFrame, str | None]:
    """Bring timestamps that are milli-, micro- or nanoseconds, which their median tells, to seconds; say what was."""
    times = events.get_column("timestamp")
    median = times.median()
    if not isinstance(median, float):
        return events, None
    for least, unit, divisor in _UNITS:
        if median >= least:
            seconds = numbers(times / divisor)
            return events.with_columns(seconds.alias("timestamp")), f"{unit}, brought to seconds"
    return events, "as given"


def has_text(column: str) -> pl.Expr:
    """Return which cells of a column of str hold more than white space."""
    return pl.col(column).str.contains(r"\S").fill_null(False)


def _filled(texts: pl.Series) -> pl.Series:
    """Return which texts hold more than white space; of categories each is looked at once."""
    if texts.dtype == pl.String:
        return texts.to_frame("text").select(has_text("text")).to_series()
    names = texts.unique()
    blank = names.filter(~_filled(names.cast(pl.String)))
    return texts.is_not_null() & ~texts.is_in(blank.drop_nulls().implode())


def complete(events: pl.DataFrame, malformed: int, timed: bool = True) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Keep the events that have a user, an item and, where `timed`, a timestamp; return them and the account of rows.

    Args:
        events: as in `Log`, with nulls.
        malformed: rows that could not be read at all.
        timed: whether the source has timestamps.
    """
    dropped = {"malformed": malformed}
    count = events.height + malformed
    whole = {"without_user": _filled(events["user"]), "without_item": _filled(events["item"])}
    if timed:
        whole["without_timestamp"] = events["timestamp"].is_not_null()
    kept = pl.repeat(True, events.height, eager=True)
    for reason, test in whole.items():
        dropped[reason] = int((kept & ~test).sum())
        kept &= test
    events = events.filter(kept)
    return events, {"in": count, "kept": events.height, "dropped": dropped}


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
    for own in ("item_id", "title"):
        if (name := own) in others.columns:
            while name in (own, *others.columns):
                name = f"source_{name}"
            others = others.rename({own: name})
    return pl.DataFrame([ids.alias("item_id"), titles.alias("title"), *others.get_columns()])
