"""What a source is, said before anything is done: a look at the first lines of its files."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from cftrec.data.sources import Log, SourceOptions, read_source, recognise

LOOKED_AT = 10_000  # lines of each file


def describe(source: str | Path, format: str, options: SourceOptions) -> str:
    """Return lines of text on a source: its format, files, columns, lines looked at, and the options as they stand.

    Nothing is written, and of each file about the first `LOOKED_AT` lines are read.

    Raises:
        InputError: as `read_source`, or the source is of no known format.
    """
    format, seen = recognise(source, format)
    log = read_source(source, format, options, LOOKED_AT)
    lines = [f"format   {format}: {seen}", *_files(log), *_columns(log), *_looked_at(log)]
    given = asdict(options) | ({} if log.split is None else {"split": None})
    chosen = ", ".join(f"{name} {_plain(value)}" for name, value in given.items() if value is not None)
    return "\n".join([*lines, f"options  {chosen}"])


def _files(log: Log) -> list[str]:
    return [f"file     {_file(facts)}" for facts in log.facts["files"]]


def _file(facts: dict[str, Any]) -> str:
    size = f"{facts['bytes'] / 1e6:,.1f} MB" if facts["bytes"] >= 1e6 else f"{facts['bytes']:,} bytes"
    words = [facts["name"], size, f"{facts['rows']:,} rows looked at"]
    if facts.get("malformed"):
        places = ", ".join(map(str, facts["malformed_lines"]))
        more = " ..." if facts["malformed"] > len(facts["malformed_lines"]) else ""
        words.append(f"{facts['malformed']:,} malformed (line {places}{more})")
    if facts.get("latin_1_lines"):
        words.append(f"{facts['latin_1_lines']:,} not UTF-8, read as Latin-1")
    return ", ".join(words)


def _columns(log: Log) -> list[str]:
    taken = ", ".join(f"{what} from {column}" for what, column in log.facts["columns"].items() if column)
    others = ", ".join(log.items.columns[2:]) or "none"
    return [f"columns  {taken}; other columns of the items: {others}", f"times    {_period(log)}"]


def _period(log: Log) -> str:
    unit = log.facts["timestamp_unit"]
    if unit is None:
        return "none: events stay in the order of the source"
    times = log.events["timestamp"]
    first, last = (day(time) for time in (times.min(), times.max()))
    return f"{unit}; {first} to {last}"


def day(seconds: Any) -> str:
    """Return the day of a timestamp, or the number where it is none of this era."""
    return str(datetime.fromtimestamp(seconds, UTC).date()) if 1e8 < seconds < 1e10 else f"{seconds:,}"


def _looked_at(log: Log) -> list[str]:
    users, items = (log.events[column].n_unique() for column in ("user", "item"))
    rows = log.facts["log_rows"]
    dropped = _named(rows["dropped"])
    titled = log.items.select(pl.col("title").fill_null("").str.contains(r"\S").sum()).item()
    items_dropped = _named(log.facts["item_rows"]["dropped"])
    lines = [
        f"log      {rows['in']:,} rows looked at: {log.events.height:,} events, {users:,} users, {items:,} items"
        f"; dropped: {dropped}",
        f"items    {log.items.height:,}, {titled:,} of them with a title; dropped: {items_dropped}",
    ]
    if log.split is not None:
        alone = f"{log.facts['rows_that_continue_no_other']:,} of the rows looked at"
        lines.append(f"split    given by the files; {alone} continue no other, and would be users of their own")
    titles = log.items["title"].drop_nulls().head(3).to_list()
    return [*lines, f"titles   {' | '.join(titles)}"]


def _named(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in dropped.items() if count) or "none"


def _plain(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
