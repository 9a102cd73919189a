"""Atomic files as RecBole has them: tab separated, a header of `name:type`, never quoted.

`*.inter` holds the log in one of two forms: a row an event (`user_id`, `item_id`, `timestamp`; every row is an event,
ratings are not looked at), or a row a sequence (`user_id`, `item_id_list` in time order, `item_id` the next one).
`*.item` holds the titles.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from cftrec.data.sources.lines import Codes, Lines
from cftrec.data.sources.log import Log, SourceOptions, all_rows, event_frame, item_frame, make_log
from cftrec.data.sources.sheet import Sheet, files_in, listed, quoted, read_text
from cftrec.data.sources.stream import read_log
from cftrec.errors import InputError

_USED = ("user_column", "item_column", "timestamp_column", "title_column")
_HEAD = 2  # lines that tell a file's columns


def recognise(source: Path) -> str | None:
    """Say which atomic files a folder holds."""
    if not source.is_dir():
        return None
    found = [name for name in files_in(source) if name.endswith((".inter", ".item"))]
    return f"RecBole atomic files ({listed(found)})" if len({Path(name).suffix for name in found}) == 2 else None


def read(source: str | Path, options: SourceOptions, limit: int | None = None) -> Log:
    """Read a folder of atomic files.

    Of several files of sequences each user's longest sequence is the log, and the others must be its beginnings
    (RecBole's benchmark files repeat a user's history); they are counted.

    Raises:
        InputError: a file or column is missing, or a row cannot be read.
    """
    options.refuse_others("recbole", _USED)
    return read_folder(Path(source), Path(source).resolve().name, options, limit)


def read_folder(folder: Path, name: str, options: SourceOptions, limit: int | None = None) -> Log:
    """Read a folder of atomic files under a name of its own; otherwise as `read`."""
    found = files_in(folder)
    logs = [folder / file for file in found if file.endswith(".inter")]
    tables = [folder / file for file in found if file.endswith(".item")]
    for kind, count in (("*.inter", len(logs)), ("*.item", len(tables))):
        if not count:
            raise InputError(f"{folder}: no {kind} file; the folder holds {listed(found)}")

    user, item = options.user_column or "user_id", options.item_column or "item_id"
    history = f"{item}_list"
    time = options.timestamp_column
    columns = [_read_atomic(log, _HEAD).frame.columns for log in logs]
    if len(tables) > 1:
        raise InputError(f"{folder}: several *.item files ({listed([t.name for t in tables])}); leave one")
    as_sequences = [history in names for names in columns]
    read: Sequence[Sheet | Lines]
    if any(as_sequences):
        if not all(as_sequences):
            other = logs[as_sequences.index(False)]
            raise InputError(f"{other}: no column {quoted(history)}, which other *.inter files have; leave one form")
        if time:
            raise InputError(f"option timestamp_column: {logs[0]} holds sequences in order; leave it out")
        read = sheets = [_read_atomic(log, limit) for log in logs]
        events, rows = _sequences(sheets, user, history, item)
    else:
        time = time or ("timestamp" if "timestamp" in columns[0] else None)
        if time is None and len(logs) > 1:
            files = listed([log.name for log in logs])
            raise InputError(f"{folder}: several *.inter files without timestamps ({files}), so no order; leave one")
        read = _read_events(logs, user, item, time, limit)
        # One file's timestamps may be whole, another's not.
        events = pl.concat([log.frame for log in read], how="vertical_relaxed")
        rows = all_rows(events.height)

    table = _read_atomic(tables[0], limit)
    ids = table.ids(item, "item_column")
    title = options.title_column or _title_column(table)
    titles = table.column(title, "title_column")
    others = table.texts([column for column in table.frame.columns if column not in (item, title)])
    used = {"user": user, "item": item, "timestamp": time, "title": title}
    items = item_frame(ids, titles, others)
    rows_are = "sequences" if any(as_sequences) else "events"
    return make_log(name, "recbole", [*read, table], events, items, rows=rows, columns=used, rows_are=rows_are)


def _read_atomic(path: Path, limit: int | None) -> Sheet:
    """Read one atomic file, its columns named without their types."""
    return _named(read_text(path, "\t", limit=limit))


def _named(sheet: Sheet) -> Sheet:
    plain = [column.split(":", 1)[0] for column in sheet.frame.columns]
    if len(set(plain)) < len(plain):
        raise InputError(f"{sheet.path}: two columns of one name in the header ({listed(sheet.frame.columns)})")
    return replace(sheet, frame=sheet.frame.rename(dict(zip(sheet.frame.columns, plain, strict=True))))


def _title_column(table: Sheet) -> str:
    columns = table.frame.columns
    endings = [column for end in ("_title", "_name") for column in columns if column.endswith(end)]
    found = [column for column in ("title", "name") if column in columns] + endings
    if not found:
        raise InputError(
            f"{table.path}: no column of titles (title, name, ...); its columns are {listed(columns)}; "
            "name the right one with option title_column"
        )
    return found[0]


def _read_events(paths: list[Path], user: str, item: str, time: str | None, limit: int | None) -> list[Lines]:
    """Read the events of logs that have a row an event, block by block."""

    def take(part: Sheet) -> pl.DataFrame:
        log = _named(part)
        times = log.times(time, "timestamp_column") if time else None
        return event_frame(log.ids(user, "user_column"), log.ids(item, "item_column"), times)

    codes = Codes()
    return [read_log(path, "\t", take, limit=limit, codes=codes) for path in paths]


def _sequences(logs: list[Sheet], user: str, history: str, item: str) -> tuple[pl.DataFrame, dict[str, object]]:
    """Return the events of each user's longest sequence, users as they first appear, and the account of the rows."""
    ids = pl.concat([log.ids(user, "user_column") for log in logs])
    last = pl.concat([log.ids(item, "item_column") for log in logs])
    before = pl.concat([log.column(history) for log in logs]).str.extract_all(r"\S+")
    whole = pl.select(pl.concat_list(before.alias("before"), last.alias("last"))).to_series()
    names = ids.unique(maintain_order=True)
    owner = ids.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)
    lengths = whole.list.len().to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths

    order = np.lexsort((-lengths, owner))  # stable: of equally long sequences the first row counts as the longest
    longest = order[np.searchsorted(owner[order], np.arange(len(names)))]
    tokens = whole.explode()
    codes = tokens.cast(pl.Enum(tokens.unique())).to_physical().to_numpy()
    row = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(codes)) - starts[row]
    differs = codes != codes[starts[longest[owner[row]]] + within]
    if differs.any():
        wrong = int(row[differs.argmax()])
        raise InputError(
            f"{_place(logs, wrong)}: the sequence of user {quoted(ids[wrong])} is no beginning of this user's longest "
            f"({_place(logs, int(longest[owner[wrong]]))}); leave only files whose sequences continue each other"
        )

    kept = np.repeat(longest, lengths[longest])
    position = np.arange(len(kept)) - np.repeat(np.cumsum(lengths[longest]) - lengths[longest], lengths[longest])
    events = event_frame(ids.gather(kept), tokens.gather(starts[kept] + position), None)
    repeated = {"beginnings_of_longer_sequences": len(ids) - len(names)}
    return events, {"in": len(ids), "kept": len(names), "dropped": repeated}


def _place(logs: list[Sheet], row: int) -> str:
    """Say where a row of all logs, one after the other, stands."""
    for log in logs:
        if row < log.frame.height:
            return log.place(row)
        row -= log.frame.height
    raise IndexError(row)
