"""Atomic files as RecBole has them: tab separated, a header of `name:type`, never quoted.

`*.inter` holds the log in one of two forms: a row an event (`user_id`, `item_id`, `timestamp`; every row is an event,
ratings are not looked at), or a row a sequence (`user_id`, `item_id_list` in time order, `item_id` the next one).
`*.item` holds the titles.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from cftrec.data.sources.lines import Codes, Lines
from cftrec.data.sources.log import Log, SourceOptions, all_rows, event_frame, item_frame, make_log
from cftrec.data.sources.sheet import Sheet, files_in, listed, quoted, read_text
from cftrec.data.sources.stream import read_log
from cftrec.errors import InputError
from cftrec.ragged import Ints, ranges

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
    if any(as_sequences):
        if not all(as_sequences):
            other = logs[as_sequences.index(False)]
            raise InputError(f"{other}: no column {quoted(history)}, which other *.inter files have; leave one form")
        if time:
            raise InputError(f"option timestamp_column: {logs[0]} holds sequences in order; leave it out")
        read, events, rows = _read_sequences(logs, user, item, limit)
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


def _read_sequences(
    paths: list[Path], user: str, item: str, limit: int | None
) -> tuple[list[Lines], pl.DataFrame, dict[str, object]]:
    """Read logs that have a row a sequence, block by block: of each user the longest sequence stays.

    Returns:
        The files, the events of each user's longest sequence, users as they first appear, and the account of the rows.
    """
    rows: list[int] = []

    def take(part: Sheet) -> pl.DataFrame:
        ids, whole = _whole_sequences(_named(part), user, item)
        rows.append(len(ids))
        tokens = whole.explode()
        lengths = whole.list.len().to_numpy().astype(np.int64)
        longest = _longest(_numbers_of(ids), lengths, _numbers_of(tokens))
        frame = pl.DataFrame([ids.alias("user"), whole.alias("item")])[longest].explode("item")
        first = np.zeros(frame.height, bool)
        first[np.cumsum(lengths[longest]) - lengths[longest]] = True
        return frame.with_columns(pl.Series("first", first))

    codes, read = Codes(), list[Lines]()
    try:
        for path in paths:
            before = sum(rows)
            log = read_log(path, "\t", take, limit=limit, codes=codes, merge=_merged)
            read.append(replace(log, facts={"rows": sum(rows) - before} | log.facts))
        found = _merged(pl.concat([log.frame for log in read]))
    except _DifferError:
        raise InputError(_difference([_read_atomic(path, limit) for path in paths], user, item)) from None
    kept = int(found["first"].sum())
    dropped = {"beginnings_of_longer_sequences": sum(rows) - kept}
    return read, event_frame(found["user"], found["item"], None), {"in": sum(rows), "kept": kept, "dropped": dropped}


def _merged(found: pl.DataFrame) -> pl.DataFrame:
    """Return the tokens of each user's longest sequence: `user` and `item` categories, `first` of its sequence."""
    starts = found["first"].arg_true().to_numpy().astype(np.int64)
    lengths = np.diff(starts, append=found.height)
    longest = _longest(_numbers_of(found["user"].gather(starts)), lengths, found["item"].to_physical().to_numpy())
    return found[ranges(starts[longest], lengths[longest])]


class _DifferError(Exception):
    """Two sequences of a user are no continuation of each other; its argument are their rows."""


def _whole_sequences(log: Sheet, user: str, item: str) -> tuple[pl.Series, pl.Series]:
    """Return the user of each row and its sequence, list of str, the next item as its last."""
    ids, last = log.ids(user, "user_column"), log.ids(item, "item_column")
    before = log.column(f"{item}_list").str.extract_all(r"\S+")
    return ids, pl.select(pl.concat_list(before.alias("before"), last.alias("last"))).to_series()


def _numbers_of(names: pl.Series) -> Ints:
    """Number texts or categories as they first appear, int64."""
    if names.dtype == pl.String:
        names = names.cast(pl.Enum(names.unique()))
    _, first, number = np.unique(names.to_physical().to_numpy(), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number]


def _longest(owner: Ints, lengths: Ints, tokens: Ints) -> Ints:
    """Return the row of each owner's longest sequence, int64 [U]; of equally long ones the first.

    Args:
        owner: int64 [R], from 0, each number at least once.
        lengths: int64 [R], tokens of each row, at least 1.
        tokens: int [sum of lengths], those of all rows, one row after the other.

    Raises:
        _DifferError: an owner has another sequence that is no beginning of the longest.
    """
    order = np.lexsort((-lengths, owner))  # stable
    longest = order[np.searchsorted(owner[order], np.arange(owner.max(initial=-1) + 1))]
    row = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    differs = tokens != tokens[ranges(starts[longest[owner]], lengths)]
    if differs.any():
        wrong = int(row[differs.argmax()])
        raise _DifferError(wrong, int(longest[owner[wrong]]))
    return longest


def _difference(logs: list[Sheet], user: str, item: str) -> str:
    """Say which two rows of logs that were read whole do not continue each other."""
    found = [_whole_sequences(log, user, item) for log in logs]
    ids, whole = (pl.concat([part[column] for part in found]) for column in range(2))
    try:
        _longest(_numbers_of(ids), whole.list.len().to_numpy().astype(np.int64), _numbers_of(whole.explode()))
    except _DifferError as error:
        wrong, longest = error.args
        return (
            f"{_place(logs, wrong)}: the sequence of user {quoted(ids[wrong])} is no beginning of this user's longest "
            f"({_place(logs, longest)}); leave only files whose sequences continue each other"
        )
    raise AssertionError("sequences that differ in parts differ as a whole")


def _place(logs: list[Sheet], row: int) -> str:
    """Say where a row of all logs, one after the other, stands."""
    for log in logs:
        if row < log.frame.height:
            return log.place(row)
        row -= log.frame.height
    raise IndexError(row)
