"""Records, one a line, as JSON or as Python writes its dictionaries (early Amazon and Steam files), never evaluated.

A block of JSON lines is parsed at once by polars; Python's literals are first rewritten as JSON. Where that fails, the
block is halved down to the lines that are at fault, and these are read one by one: JSON with NaN, literals of any form.
"""

import ast
import io
import json
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from cftrec.data.sources.lines import Block, Lines, decoded, decoded_block, first_lines, read_lines
from cftrec.data.sources.sheet import files_in, listed
from cftrec.errors import InputError

Schema = Mapping[str, pl.DataType | type[pl.DataType]]
_LOOKED_AT = 20  # lines among which a file of records shows its first
_FEW = 16  # lines that are not worth halving
_ENDING = re.compile(r"\.(json|jsonl|ndjson)(\.gz|\.zst)?$", re.IGNORECASE)
# What stands in the names of files beside their subject: Video_Games in reviews_Video_Games_5.json.gz.
_FRAME = {"meta", "reviews", "review", "5", "goodreads", "books", "interactions", "dedup"}
_LITERAL_LINE = re.compile(rb"\s*\{\s*u?'")
_TOKEN = re.compile(
    r"u?'([^'\\\n]*(?:\\.[^'\\\n]*)*)'"  # 'it\'s'
    r'|u?"([^"\\\n]*(?:\\.[^"\\\n]*)*)"'
    r"|\b(True|False|None|nan)\b"
)
_WORDS = {"True": "true", "False": "false", "None": "null", "nan": "null"}
_NAN = re.compile(r"(?<=: )nan(?=[,}])")


def read_records(
    path: Path,
    schema: Schema,
    limit: int | None = None,
    take: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
) -> Lines:
    """Read the named fields of a file of records; fields that are missing are null.

    Args:
        path: the file; plain, gzip or zstd.
        schema: fields and types: str (numbers become text), or lists and structs of str.
        limit: look at so many lines only.
        take: what of a long log is kept, as in `read_lines`.

    Raises:
        InputError: as `read_lines`.
    """
    return read_lines(path, lambda block: _parse(block, schema), "JSON objects", limit, take)


def record_files(
    source: Path, log: set[str], items: set[str] | None, *, unlike: frozenset[str] = frozenset()
) -> tuple[Path, Path, set[str]] | None:
    """Find a log and its items among the record files of a folder, or beside the file of the log, by their fields.

    Args:
        source: a folder, or the file of the log.
        log: fields that the first record of the log has.
        items: fields that the first record of the items has, or None where the log holds the items.
        unlike: fields that no record of the items has.

    Returns:
        The log, the items, and the fields of the log's first record; None where no file has the log's fields.

    Raises:
        InputError: several logs, or not one file of items that goes with the log.
    """
    folder = source.parent if source.is_file() else source
    files = [folder / name for name in files_in(folder) if _ENDING.search(name) and (folder / name).is_file()]
    fields = {file: set(first_record(file)) for file in ([source] if source.is_file() else files)}
    logs = [file for file, found in fields.items() if log <= found]
    if not logs:
        return None
    if len(logs) > 1:
        raise InputError(f"{folder}: several logs ({listed([file.name for file in logs])}); name the file of one")
    if items is None:
        return logs[0], logs[0], fields[logs[0]]
    others = {file: fields.get(file) or set(first_record(file)) for file in files if file != logs[0]}
    tables = [file for file, found in others.items() if items <= found and not unlike & found]
    if len(tables) > 1:
        tables = [file for file in tables if _subject(file) == _subject(logs[0])] or tables
    if len(tables) != 1:
        several = f"several files of items ({listed([file.name for file in tables])})" if tables else "no file of items"
        raise InputError(f"{logs[0]}: {several} beside it; leave the one whose records have {listed(sorted(items))}")
    return logs[0], tables[0], fields[logs[0]]


def first_record(path: Path) -> dict[str, Any]:
    """Return the first record among a file's first lines; empty where there is none."""
    records = (_record(line) for line in first_lines(path)[:_LOOKED_AT])
    return next((record for record in records if record), {})


def _subject(path: Path) -> list[str]:
    return [word for word in _ENDING.sub("", path.name).split("_") if word.lower() not in _FRAME]


def _parse(block: bytes, schema: Schema) -> Block:
    text, latin = block, 0
    with suppress(pl.exceptions.PolarsError, ValueError, SyntaxError):  # the latter of a literal's broken escapes
        if _LITERAL_LINE.match(block):
            literals, latin = decoded_block(block)
            text = _TOKEN.sub(_json_token, literals).encode(errors="replace")
        frame = _frame(text, schema)
        # What is JSON and no object, such as a list, gives a row of nulls.
        if not frame.select(pl.all_horizontal(pl.all().is_null()).any()).item():
            return Block(frame, [], latin)
    lines = block.split(b"\n")
    if len(lines) <= _FEW:
        return _one_by_one(lines, schema)
    half = len(lines) // 2
    above, below = (_parse(b"\n".join(part), schema) for part in (lines[:half], lines[half:]))
    broken = above.broken + [half + line for line in below.broken]
    return Block(pl.concat([above.frame, below.frame]), broken, above.latin + below.latin)


def _frame(text: bytes, schema: Schema) -> pl.DataFrame:
    return pl.read_ndjson(io.BytesIO(text), schema=dict(schema), ignore_errors=True)


def _one_by_one(lines: list[bytes], schema: Schema) -> Block:
    frames, broken, latin = [_frame(b"", schema)], [], 0
    for place, line in enumerate(lines):
        if line.strip():
            try:
                record = _record(line) or {}
                text = json.dumps({name: record[name] for name in schema if name in record}, default=str)
                frames.append(_frame(text.encode(), schema) if record else frames[0].clear())
            except (ValueError, TypeError, pl.exceptions.PolarsError):  # such as a number without end
                record = {}
            if not record:
                broken.append(place)
            latin += bool(record) and decoded(line).encode() != line
    return Block(pl.concat(frames), broken, latin)


def _record(line: bytes) -> dict[str, Any] | None:
    """Return a line's record, from JSON or a Python literal; None where there is none."""
    text = decoded(line).strip()
    for read in (_json, ast.literal_eval, _without_nan):
        try:
            with warnings.catch_warnings(action="ignore"):  # of escapes in text that Python would not write itself
                record = read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return record if isinstance(record, dict) else None
    return None


def _json(text: str) -> Any:
    return json.loads(text, parse_constant=lambda _: None)  # NaN and Infinity


def _without_nan(text: str) -> Any:
    return ast.literal_eval(_NAN.sub("None", text))


def _json_token(token: re.Match[str]) -> str:
    """Rewrite one string or word of a Python literal as JSON."""
    kind = token.lastindex
    if kind is None or kind == 3:
        return _WORDS.get(token[0], '""')
    inner = token[kind]
    if "\\" in inner:  # the codec of Python's literals, for ASCII, and their reader for the rest
        text = inner.encode().decode("unicode_escape") if inner.isascii() else ast.literal_eval(token[0])
        return json.dumps(text)
    return '"' + inner.replace('"', '\\"') + '"'
