"""Recommendations for many users: a file of histories in, a Parquet file out, in parts that survive a kill.

The parts lie in a hidden folder beside the output, each written in one step, and the output appears when all are there.
The same command after an interruption goes on with the first part that is missing. Memory holds one part at a time;
only a table with an event a row is gathered in memory once, to make histories of it.
"""

import codecs
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import polars as pl

from cftrec.artefacts import MANIFEST, held, read_json, sha256, write_json
from cftrec.data.dataset import Dataset
from cftrec.data.sources.sheet import listed, read_table
from cftrec.errors import InputError

if TYPE_CHECKING:
    from cftrec.decoding import SearchResult
    from cftrec.decoding.guided import GuidedResult
    from cftrec.recommender import Recommender

PART_USERS = 128
"""Users of a part: what an interruption loses at most."""
_JOB, _HISTORIES, _OUTPUT = "job.json", "histories.parquet", "output.json"
_WHOLE = ".whole.partial"  # hidden, so that no name of an output is one of the parts
_SCHEMA: dict[str, Any] = {
    "user": pl.String,
    "items": pl.List(pl.String),
    "titles": pl.List(pl.String),
    "scores": pl.List(pl.Float64),
    "untrained": pl.List(pl.Boolean),
    "exact": pl.Boolean,
    "bound": pl.Float64,
    "unknown": pl.Int64,
}


def recommend_users(
    recommender: "Recommender",
    users: Path,
    out: Path,
    k: int = 10,
    *,
    progress: Callable[[int, int], None] | None = None,
    part_users: int = PART_USERS,
    **options: Any,
) -> dict[str, int]:
    """Write every user's k best items to a Parquet file, whole or not at all.

    Args:
        recommender: the RUN.
        users: a DATASET folder (every user with the whole history), or a table (.parquet, .csv, .tsv, .jsonl, .ndjson)
            with columns `user` and `history` (a list of item ids or titles, oldest first, a user a row) or `user` and
            `item` (an event a row, each user's oldest first). An entry that is both an id and a title is taken as id.
        out: the file, a row a user in the input's order: `user`, `items` (ids, best first), `titles`, `scores` (log p),
            `untrained` (of each item, see `Recommendation`), `exact`, `bound` (where it is not exact, the most log p
            that an item which was not looked into could have; else null), and `unknown`, how many entries of the
            history the RUN does not know and leaves out.
        k: items a user, at least 1.
        progress: called with (users done, users in all).
        part_users: users of a part.
        options: further arguments of `Recommender.search`, `allow` and `deny` as ids or titles for all users, in any
            order, or, where a gamma is among them, of `Recommender.guided`: then columns `log_p` and `effect` say what
            the scores are made of.

    Returns:
        Counts: `users`, `unknown` (entries of histories left out), `inexact` (users without a certificate), and
        `resumed`, the users whose answers an interrupted call had left.

    Raises:
        InputError: `users` cannot be read, an option cannot be used, `out` is there already, or an interrupted job with
            other arguments or broken parts is, or another call is at it.
    """
    if k < 1:
        raise InputError(f"-k {k}: must be at least 1")
    if out.suffix != ".parquet":
        raise InputError(f"{out}: the output is a Parquet file; name it NAME.parquet")
    folder = out.with_name(f".{out.name}.parts")
    mark = users / MANIFEST if users.is_dir() else users
    if not mark.is_file():
        raise InputError(f"{users}: no such table, and no DATASET folder; name what holds the users")
    options |= {name: sorted(options[name]) for name in ("allow", "deny") if options.get(name) is not None}
    run = recommender.run_name if recommender.folder is None else recommender.identity
    job = {"users": sha256(mark), "run": run, "k": k, "part_users": part_users, "options": options}
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        try:
            _claim(folder, out, job)
        except InputError:
            with suppress(OSError):  # whatever is in it is not this call's
                folder.rmdir()
            raise
        try:
            done = out.exists()
            resumed = 0 if done else _answer_all(recommender, users, folder, out, k, part_users, progress, options)
        except InputError:
            if not any(folder.glob("part-*")):  # nothing is lost, and another call is free to say it otherwise
                shutil.rmtree(folder)
            raise
        inexact = (~pl.col("exact")).sum().alias("inexact")
        columns = (pl.len().alias("users"), pl.col("unknown").sum(), inexact)
        counts = pl.scan_parquet(out, glob=False).select(columns).collect()
        for part in folder.iterdir():  # what says whose they are goes last, so that a kill among them is taken up
            if part.name not in (_JOB, _OUTPUT):
                part.unlink()
        shutil.rmtree(folder)
    return counts.row(0, named=True) | {"resumed": resumed}


def _answer_all(
    recommender: "Recommender",
    users: Path,
    folder: Path,
    out: Path,
    k: int,
    part_users: int,
    progress: Callable[[int, int], None] | None,
    options: dict[str, Any],
) -> int:
    """Make the parts that are missing and the output of all; return how many users were answered before."""
    histories = _histories(users, folder)
    total = histories.select(pl.len()).collect().item()
    known = _index(recommender)
    parts, resumed = [], 0
    for begin in range(0, max(1, total), part_users):  # of nobody, one empty part
        end = min(begin + part_users, total)
        parts.append(folder / f"part-{begin:012}.parquet")
        if parts[-1].exists():
            resumed += end - begin
        else:
            rows = histories.slice(begin, part_users).collect()
            _write(parts[-1], _answers(recommender, rows, known, k, options).write_parquet)
        if progress is not None:
            progress(end, total)
    staging = folder / _WHOLE
    try:
        pl.scan_parquet(parts, glob=False).sink_parquet(staging)
    except pl.exceptions.PolarsError as error:
        if "os error" in str(error):  # such as a full disk
            raise
        raise InputError(
            f"{folder}: a part cannot be read ({_short(error)}); remove the folder to start anew"
        ) from error
    write_json(folder / _OUTPUT, {"sha256": sha256(staging)})
    staging.replace(out)
    return resumed


def _claim(folder: Path, out: Path, job: dict[str, Any]) -> None:
    """Take the folder of parts, or take up what the same job has left in it, even if only its removal was missing."""
    mark, made = folder / _JOB, folder / _OUTPUT
    found, wanted = read_json(mark) if mark.is_file() else None, json.loads(json.dumps(job))
    if os.path.lexists(out):
        ours = found == wanted and made.is_file() and out.is_file() and read_json(made) == {"sha256": sha256(out)}
        if not ours:
            raise InputError(f"{out}: is there already; name another file or remove it first")
    if found is None:
        if any(folder.glob("[!.]*")):
            raise InputError(f"{folder}: holds something else than the parts of a job; move it away first")
        write_json(mark, job)
    elif found != wanted:
        known = found if isinstance(found, dict) else {}
        differs = ", ".join(sorted(name for name in wanted if known.get(name) != wanted[name]))
        raise InputError(
            f"{folder}: holds an interrupted job with another {differs}; give the same to go on with it, or remove "
            "the folder to start anew"
        )


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file in one step."""
    staging = path.with_name(f".{path.name}.partial")
    write(staging)
    staging.replace(path)


def _histories(users: Path, folder: Path) -> pl.LazyFrame:
    """Return a table of `user` and `history`, both text, that is read in slices; it is made once, beside the parts."""
    made = folder / _HISTORIES
    if not made.exists():
        try:
            _write(made, (_of_dataset(users) if users.is_dir() else _of_table(users)).sink_parquet)
        except pl.exceptions.PolarsError as error:
            if "os error" in str(error):  # such as a full disk
                raise
            raise InputError(f"{users}: cannot be read ({_short(error)})") from error
    return pl.scan_parquet(made, glob=False)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _of_dataset(folder: Path) -> pl.LazyFrame:
    dataset = Dataset.load(folder)
    owner = np.repeat(np.arange(len(dataset.users)), np.diff(dataset.offsets))
    items = dataset.items["item_id"].gather(dataset.events)
    return _gathered(pl.DataFrame([dataset.users.gather(owner).alias("user"), items.alias("item")]).lazy())


def _of_table(file: Path) -> pl.LazyFrame:
    ending = file.suffix.lower()
    if ending not in (*_TEXTS, *_SCANS):
        known = ".parquet, .csv, .tsv, .jsonl or .ndjson"
        raise InputError(f"{file}: a table of users ends in {known}; name one, or a DATASET folder")
    sheet = read_table(file) if ending in _TEXTS else None
    table = _SCANS[ending](file) if sheet is None else sheet.frame.lazy().with_columns(pl.all().replace("", None))
    columns = table.collect_schema()
    if isinstance(columns.get("history"), pl.Array):  # lists of one length, as of a matrix
        table = table.with_columns(pl.col("history").arr.to_list())
        columns = table.collect_schema()
    if "user" not in columns or not {"history", "item"} & set(columns):
        raise InputError(
            f"{file}: its columns are {listed(columns.names())}; give user and history (a list), or user and item"
        )
    if "history" in columns and not isinstance(columns["history"], pl.List):
        raise InputError(f"{file}: history must hold lists; a text table has an event a row, columns user and item")
    taken = ("user", "history" if "history" in columns else "item")
    for name in taken:
        kind = columns[name]
        if (kind.inner if name == "history" and isinstance(kind, pl.List) else kind).is_nested():
            raise InputError(
                f"{file}: {name} holds nested values; give users and items as text or numbers, and lists of items in "
                "column history"
            )
    table = table.select(_ids(table, name) for name in taken)
    missing = pl.col("user").fill_null("") == ""
    empty = table.select(missing.arg_max().alias("row"), missing.any().alias("any")).collect()
    if empty["any"][0]:
        row = empty["row"][0] if sheet is None else sheet.rows[empty["row"][0]]  # blank lines of a text count
        raise InputError(f"{file}, row {row + 1}: user is empty; fill it in or remove the row")
    return table.with_columns(pl.col("history").fill_null([])) if "history" in columns else _gathered(table)


def _ids(table: pl.LazyFrame, column: str) -> pl.Expr:
    """Return a column of ids or of lists of them as text; whole floats and decimals without ".0", as a log's are."""
    kind = table.collect_schema()[column]
    listed = isinstance(kind, pl.List)
    whole: pl.DataType | None = None
    inner = kind.inner if isinstance(kind, pl.List) else kind
    if inner.is_float() or (isinstance(inner, pl.Decimal) and inner.scale):  # floats had perhaps a missing value
        values = pl.col(column).explode() if listed else pl.col(column)
        parts = values.cast(pl.Float64).fill_nan(None).drop_nulls()
        fits = ((parts == parts.floor()) & (parts.abs() < 2.0**63)).all()
        whole = pl.Int64() if table.select(fits).collect().item() else None
    ids = pl.col(column)
    for wanted in (whole, pl.String()):
        if wanted is not None:
            ids = ids.cast(pl.List(wanted) if listed else wanted, strict=False)
    return ids


def _gathered(events: pl.LazyFrame) -> pl.LazyFrame:
    """Gather an event a row into a user a row, users in the order of their first events."""
    return events.group_by("user", maintain_order=True).agg(pl.col("item").drop_nulls().alias("history"))


_TEXTS = (".csv", ".tsv")  # with an event a row, which are gathered in memory anyway
# A file's name is no pattern, whatever characters it has.
_SCANS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    ".parquet": lambda file: pl.scan_parquet(file, glob=False),
    ".jsonl": lambda file: pl.scan_ndjson(_after_mark(file), infer_schema_length=None),
    ".ndjson": lambda file: pl.scan_ndjson(_after_mark(file), infer_schema_length=None),
}


def _after_mark(file: Path) -> BinaryIO:
    """Open a file behind the byte order mark that some editors write."""
    lines = file.open("rb")
    if lines.read(3) != codecs.BOM_UTF8:
        lines.seek(0)
    return lines


def _index(recommender: "Recommender") -> dict[str, int]:
    """Return the item of each id, and of each title that is no id; of several items with one title the first."""
    catalogue = recommender.catalogue
    titles = {title: item for item, title in reversed(list(enumerate(catalogue.titles)))}
    return titles | {item_id: item for item, item_id in enumerate(catalogue.item_ids)}


def _answers(
    recommender: "Recommender", rows: pl.DataFrame, known: dict[str, int], k: int, options: dict[str, Any]
) -> pl.DataFrame:
    """Search for some users, and return their rows of the output."""
    catalogue, ids = recommender.catalogue, recommender.catalogue.item_ids
    entries = [[known.get(entry, -1) for entry in history] for history in rows["history"]]
    histories = [np.array([item for item in items if item >= 0], dtype=np.int64) for items in entries]
    k = min(k, len(catalogue))
    allowed, denied = options.get("allow"), catalogue.named(options.get("deny") or ())
    by_title = [
        [item for entry, item in zip(history, items, strict=True) if item >= 0 and ids[item] != entry]
        for history, items in zip(rows["history"], entries, strict=True)
    ]
    rules = {
        "allow": None if allowed is None else [catalogue.named(allowed)] * len(histories),
        "deny": [
            denied
            if options.get("keep_history")
            else np.concatenate((denied, catalogue.namesakes(np.array(items, dtype=np.int64))))
            for items in by_title
        ],
    }
    found: SearchResult | GuidedResult
    if "gamma" in options:
        found = recommender.guided(histories, k, **options | rules)
        floats = {"scores": found.scores, "log_p": found.log_p, "effect": found.effect}
    else:
        found = recommender.search(histories, k, **options | rules)
        floats = {"scores": found.scores}
    there = [row[row >= 0] for row in found.items]
    columns: dict[str, Any] = {
        "user": rows["user"],
        "items": [[ids[item] for item in items] for items in there],
        "titles": [[catalogue.titles[item] for item in items] for items in there],
        "untrained": [catalogue.untrained[items].tolist() for items in there],
        "exact": found.exact,
        "bound": [None if exact else bound for exact, bound in zip(found.exact, found.bound, strict=True)],
        "unknown": [items.count(-1) for items in entries],
    }
    for name, values in floats.items():
        columns[name] = [row[: len(items)].tolist() for row, items in zip(values, there, strict=True)]
    kinds = _SCHEMA | dict.fromkeys(floats, pl.List(pl.Float64))
    return pl.DataFrame([pl.Series(name, columns[name], dtype=kind) for name, kind in kinds.items()])
