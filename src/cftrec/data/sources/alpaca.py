"""The Alpaca JSON of BIGRec's and CFT's code: lists of `instruction`, `input` and `output`, taken as given splits.

The `input` names the history's titles in quotes, separated by ", "; the `output` is the target's title in quotes. There
are no ids: a title is its item's id, and every record a user of its own. arXiv 2308.08434, 2410.22809
"""

import json
from pathlib import Path
from typing import Any

import polars as pl

from cftrec.data.sources.compressed import opened
from cftrec.data.sources.log import Log, SourceOptions, item_frame
from cftrec.data.sources.samples import PARTS, SAMPLE, samples_log, sound, string_lists
from cftrec.data.sources.sheet import Sheet, files_in, listed, read_bytes
from cftrec.errors import InputError

_FIELDS = ("instruction", "input", "output")
_HEAD = 2**18  # bytes in which they are looked for


def recognise(source: Path) -> str | None:
    """Say which files hold the parts."""
    parts = _find(source)
    if parts is None:
        return None
    with opened(parts["train"], False) as (file, _):  # it may be one long line
        head = file.read(_HEAD)
    if not all(f'"{field}"'.encode() in head for field in _FIELDS):
        return None
    return f"Alpaca JSON: {listed([path.name for path in parts.values()])}"


def read(source: str | Path, options: SourceOptions, limit: int | None = None) -> Log:
    """Read a folder of train.json, valid.json (if there is one) and test.json.

    Raises:
        InputError: no such files, or one that is no JSON list.
    """
    options.refuse_others("alpaca")
    parts = _find(Path(source))
    if parts is None:
        raise InputError(f"{source}: no Alpaca JSON (train.json, test.json)")
    sheets = [_read(part, path, limit) for part, path in parts.items()]
    samples = pl.concat([sheet.frame for sheet in sheets])
    titles = pl.concat([samples["history"].explode(), samples["item"]]).drop_nulls().unique(maintain_order=True)
    items = item_frame(titles, titles, pl.DataFrame())
    columns: dict[str, str | None] = {"user": None, "item": "input", "timestamp": None, "title": "input"}
    name = Path(source).resolve().name
    return samples_log(name, "alpaca", sheets, samples, items, dropped={}, columns=columns)


def _find(source: Path) -> dict[str, Path] | None:
    if source.is_file():
        return None
    found = {part: source / f"{part}.json" for part in PARTS if f"{part}.json" in files_in(source)}
    return found if {"train", "test"} <= set(found) else None


def _read(part: str, path: Path, limit: int | None) -> Sheet:
    content, facts = read_bytes(path)
    try:
        records = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(records, list):
        raise InputError(f"{path}: not a list of records with {', '.join(_FIELDS)}")
    rows = [_sample(record) for record in records[:limit]]
    frame = pl.DataFrame(
        {
            "part": [part] * len(rows),
            "row": range(1, len(rows) + 1),
            "user": [f"{part} {row}" for row in range(1, len(rows) + 1)],
            "history": string_lists([row and row[0] for row in rows]),
            "item": [row and sound(row[1]) for row in rows],
        },
        schema=SAMPLE,
    )
    return Sheet(path, frame, pl.int_range(frame.height, eager=True), None, facts)


def _sample(record: Any) -> tuple[list[str], str] | None:
    """Return the titles of a record's history and its target, or None where it has no such texts."""
    if not isinstance(record, dict) or not all(isinstance(record.get(field), str) for field in ("input", "output")):
        return None
    shown, target = record["input"], record["output"].strip()
    quoted = shown[shown.find('"') + 1 : shown.rfind('"')] if shown.count('"') > 1 else ""
    title = target[1:-1] if len(target) > 1 and target[0] == target[-1] == '"' else target
    return [entry for entry in quoted.split('", "') if entry.strip()], title
