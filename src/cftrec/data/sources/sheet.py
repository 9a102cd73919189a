"""A file of rows and columns, read as text with exact places for messages: the one way sources open files."""

import csv
import io
import itertools
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from cftrec.artefacts import sha256
from cftrec.data.sources.compressed import opened
from cftrec.errors import InputError

csv.field_size_limit(2**31 - 1)  # a description is not too long at 128 KiB
BOM = b"\xef\xbb\xbf"
_SHOWN = 20  # columns named in a message
_HEADER = 2**20  # bytes in which a header ends


@dataclass(frozen=True, eq=False)
class Sheet:
    """The rows of one file.

    Attributes:
        path: the file.
        frame: its rows; text files give str columns with "" where a field is empty.
        rows: uint32, for each row of `frame` its number in the file, from 0 (blank lines count and are left out).
        first_line: number of the line that holds row 0, or None where rows are not lines.
        facts: name, bytes and SHA-256 of the file.
    """

    path: Path
    frame: pl.DataFrame
    rows: pl.Series
    first_line: int | None
    facts: dict[str, Any]

    def place(self, index: int) -> str:
        """Say where a row of `frame` stands, as "file, row 3 (line 4)"; rows count from 1 after any header."""
        row = self.rows[index]
        line = "" if self.first_line is None else f" (line {row + self.first_line})"
        return f"{self.path}, row {row + 1}{line}"

    def column(self, name: str, option: str | None = None) -> pl.Series:
        """Return a column.

        Raises:
            InputError: there is none of this name; lists those there are, and the option that names another.
        """
        if name not in self.frame.columns:
            hint = f"; name the right one with option {option}" if option else ""
            raise InputError(
                f"{self.path}: no column {quoted(name)}; its columns are {listed(self.frame.columns)}{hint}"
            )
        return self.frame.get_column(name)

    def ids(self, name: str, option: str | None = None) -> pl.Series:
        """Return a column of ids as str.

        Raises:
            InputError: no such column, or an empty id.
        """
        ids = as_text(self.column(name, option))
        if ids is None:
            raise InputError(f"{self.path}: column {quoted(name)} holds no plain values; ids must be text or numbers")
        empty = (ids.str.strip_chars().fill_null("") == "").arg_true()
        if len(empty):
            raise InputError(f"{self.place(empty[0])}: {quoted(name)} is empty; fill it in or remove the row")
        return ids

    def times(self, name: str, option: str | None = None) -> pl.Series:
        """Return a column of timestamps in the unit given, dates in seconds: int64, or float64 if any has a fraction.

        Nothing is rounded, for the order of events within a second counts; of dates, nothing down to the microsecond.

        Raises:
            InputError: no such column, or a value that is no finite number.
        """
        given = self.column(name, option)
        dated = given.dtype in (pl.Date, pl.Datetime)
        times = numbers(given.cast(pl.Datetime("us")).dt.epoch("us") / 1_000_000 if dated else given)
        bad = times.is_null().arg_true()
        if len(bad):
            value = given[bad[0]]
            raise InputError(
                f"{self.place(bad[0])}: {quoted(name)} is {quoted(value)}, which is no finite number; "
                "give every row a number (seconds since 1970)"
            )
        return times

    def texts(self, names: Sequence[str]) -> pl.DataFrame:
        """Return the named columns as str, without those that hold nested records."""
        columns = [as_text(self.column(name)) for name in names]
        return pl.DataFrame([column for column in columns if column is not None])


def read_text(
    path: Path,
    separator: str,
    *,
    columns: Sequence[str] | None = None,
    quotes: bool = False,
    latin: bool = False,
    limit: int | None = None,
) -> Sheet:
    """Read a file of separated fields, all as str.

    Args:
        path: the file.
        separator: what stands between fields; one character or more.
        columns: names of the columns of a file without header.
        quotes: fields may be quoted with `"` as in CSV; otherwise a quote is a character like any other.
        latin: read as Latin-1 what is not UTF-8.
        limit: look at about so many lines only.

    Raises:
        InputError: no such file, not text, empty, or a row that does not have the header's fields.
    """
    content, facts = read_bytes(path, limit, quotes)
    sheet = parse_text(path, content, separator, columns=columns, quotes=quotes, latin=latin)
    return replace(sheet, facts=facts)


def parse_text(
    path: Path,
    content: bytes,
    separator: str,
    *,
    columns: Sequence[str] | None = None,
    quotes: bool = False,
    latin: bool = False,
) -> Sheet:
    """Make a Sheet, without facts, of a file's bytes; otherwise as `read_text`."""
    content = _as_utf8(path, content, latin)
    width = len(columns) if columns else 0
    try:
        if len(separator) > 1:
            lines = _read_csv(content, "\0", has_header=False).to_series()
            frame = _split_lines(path, lines, separator, width)
        else:
            frame = _read_csv(content, separator, has_header=columns is None, quote_char='"' if quotes else None)
    except pl.exceptions.NoDataError as error:
        raise InputError(f"{path}: the file is empty") from error
    except pl.exceptions.PolarsError as error:
        raise InputError(_reason(path, content, separator, columns, quotes)) from error
    if columns is not None:
        if frame.width != width:
            raise InputError(f"{path}: {frame.width} fields a row, where {width} are due ({listed(columns)})")
        frame = frame.rename(dict(zip(frame.columns, columns, strict=True)))
    if len(separator) == 1:
        _check_fields(path, content, separator, frame, columns, quotes)
    frame = frame.with_row_index("\0row").filter(pl.any_horizontal(pl.exclude("\0row") != ""))
    first_line = None if quotes else 1 + (columns is None)
    return Sheet(path, frame.drop("\0row"), frame.get_column("\0row"), first_line, {})


def read_table(path: Path, limit: int | None = None) -> Sheet:
    """Read a table by its name's ending: .csv, .tsv (both quoted, with header), .parquet, .jsonl or .ndjson.

    With `limit`, about so many of its rows.

    Raises:
        InputError: another ending, no such file, or not what its ending says.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; name the file that holds the table")
    match path.suffix.lower():
        case ".csv":
            return read_text(path, ",", quotes=True, limit=limit)
        case ".tsv":
            return read_text(path, "\t", quotes=True, limit=limit)
        case ".parquet":
            try:
                frame = pl.read_parquet(path, n_rows=limit, glob=False)
            except (OSError, pl.exceptions.PolarsError) as error:
                raise InputError(f"{path}: not a readable Parquet file") from error
            facts = {"name": path.name, "bytes": path.stat().st_size}
            if limit is None:
                facts["sha256"] = sha256(path)
            return Sheet(path, frame, pl.int_range(frame.height, eager=True), None, facts)
        case ".jsonl" | ".ndjson":
            content, facts = read_bytes(path, limit)
            frame = _read_json_lines(path, content.removeprefix(BOM))
            return Sheet(path, frame, pl.int_range(frame.height, eager=True), None, facts)
        case other:
            raise InputError(f"{path}: a table ends in .csv, .tsv, .parquet, .jsonl or .ndjson, not {quoted(other)}")


def as_text(values: pl.Series) -> pl.Series | None:
    """Return a column as str: whole floats without ".0", lists joined by ", "; None for nested records."""
    if isinstance(values.dtype, pl.List) and not values.dtype.inner.is_nested():
        return values.cast(pl.List(pl.String)).list.join(", ")
    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
        return None
    if isinstance(values.dtype, pl.Decimal) and values.dtype.scale and are_whole(values.cast(pl.Float64)):
        values = values.cast(pl.Int64, strict=False)
    if values.dtype.is_float():  # perhaps ids that a missing value had turned into floats
        values = values.fill_nan(None)
        values = values.cast(pl.Int64, strict=False) if are_whole(values) else values
    return values.cast(pl.String)


def are_whole(values: pl.Series) -> bool:
    """Say whether all floats are whole numbers that fit into int64; nulls are."""
    return bool(((values == values.floor()) & (values.abs() < 2.0**63)).all())


def listed(names: Sequence[str]) -> str:
    """Return names for a one-line message, long lists cut."""
    shown = ", ".join(name if name.isprintable() and len(name) <= 40 else quoted(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "") or "none"


def quoted(value: object) -> str:
    """Return a value for a one-line message: in quotes, control characters escaped, long ones cut."""
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= 40 else text[:37] + "...")


def files_in(folder: Path) -> list[str]:
    """Return the names of what a folder holds, sorted.

    Raises:
        InputError: no such folder, or it cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except NotADirectoryError as error:
        raise InputError(f"{folder}: this is a file; name the folder that holds it") from error
    except OSError as error:
        raise InputError(f"{folder}: no readable folder ({error.strerror}); name the source's folder") from error


def read_bytes(path: Path, limit: int | None = None, quotes: bool = False) -> tuple[bytes, dict[str, Any]]:
    """Return a file's bytes, out of what compresses it, and its facts.

    With `limit` those of its first lines, up to one that is not blank and ends outside quotes.
    """
    with opened(path, False) as (file, _):
        content = file.read() if limit is None else b"".join(itertools.islice(file, limit))
        if limit is not None and not content.removeprefix(BOM).strip():
            content += next((line for line in file if line.strip()), b"")
        while quotes and content.count(b'"') % 2 and (line := file.readline()):
            content += line
    facts: dict[str, Any] = {"name": path.name, "bytes": path.stat().st_size}
    return content, facts if limit is not None else facts | {"sha256": sha256(path)}


def _as_utf8(path: Path, content: bytes, latin: bool) -> bytes:
    """Return text with line ends "\\n" and without byte order mark; whatever is no text is refused."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        if not latin:
            line = content.count(b"\n", 0, error.start) + 1
            raise InputError(f"{path}: not UTF-8 text (line {line}); is this the right file?") from error
        content = content.decode("latin-1").encode("utf-8")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise InputError(f"{path}: not a text file (a zero byte in line {line}); is this the right file?")
    content = content.removeprefix(BOM)
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n")
        if b"\n" not in content:  # as old Macs end lines
            content = content.replace(b"\r", b"\n")
    return content


def _read_csv(content: bytes, separator: str, *, has_header: bool, quote_char: str | None = None) -> pl.DataFrame:
    return pl.read_csv(
        io.BytesIO(content),
        separator=separator,
        has_header=has_header,
        quote_char=quote_char,
        infer_schema=False,
        empty_string_is_null=False,
    )


def _split_lines(path: Path, lines: pl.Series, separator: str, width: int) -> pl.DataFrame:
    parts = lines.str.split(separator)
    wrong = ((parts.list.len() != width) & (lines != "")).arg_true()
    if len(wrong):
        row = wrong[0] + 1
        raise InputError(f"{path}, row {row} (line {row}): {len(parts[wrong[0]])} fields, where {width} are due")
    columns = [parts.list.get(field, null_on_oob=True).fill_null("").alias(str(field)) for field in range(width)]
    return pl.DataFrame(columns)


def _check_fields(
    path: Path, content: bytes, separator: str, frame: pl.DataFrame, columns: Sequence[str] | None, quotes: bool
) -> None:
    """Refuse what polars mends in silence: two columns of one name, and rows that end early."""
    if columns is None:
        lines = io.StringIO(content[:_HEADER].decode("utf-8", errors="ignore"), newline="")
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
        names = next((row for row in reader if row), [])
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        if twice is not None:
            raise InputError(f"{path}: two columns are called {quoted(twice)}; rename or remove one")
    if frame.width > 1 and (frame.to_series(frame.width - 1) == "").any():
        reason = _reason(path, content, separator, columns, quotes)
        if "fields, where" in reason:
            raise InputError(reason)


def _reason(path: Path, content: bytes, separator: str, columns: Sequence[str] | None, quotes: bool) -> str:
    """Say in one line why a text file has no even rows: the first row that has not the header's fields."""
    lines = io.StringIO(content.decode("utf-8"), newline="")
    reader = csv.reader(
        lines, delimiter=separator[0], quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE, strict=True
    )
    try:
        width = len(columns) if columns else len(next((row for row in reader if row), []))
        for row, entry in enumerate(reader, start=1):
            if entry and len(entry) != width:
                return f"{path}, row {row} (line {reader.line_num}): {len(entry)} fields, where {width} are due"
    except csv.Error as error:
        return f"{path}, line {reader.line_num}: cannot be read as separated fields ({error})"
    inside = re.search(rf'(?m)(?:^|{re.escape(separator[0])})[^"{re.escape(separator[0])}\n]+"'.encode(), content)
    newline = b"\n"
    where = "" if inside is None else f", line {content.count(newline, 0, inside.end()) + 1}"
    return f"{path}{where}: cannot be read as separated fields (a quote inside a field that is not quoted?)"


def _read_json_lines(path: Path, content: bytes) -> pl.DataFrame:
    if not content.strip():
        raise InputError(f"{path}: the file is empty")
    with suppress(pl.exceptions.PolarsError):
        return pl.read_ndjson(io.BytesIO(content), infer_schema_length=None)
    lines = []
    for row, line in enumerate(content.split(b"\n"), start=1):
        try:
            entry = json.loads(line, parse_constant=lambda _: None) if line.strip() else {}  # NaN and Infinity are null
        except (ValueError, RecursionError):  # also what is not UTF-8
            entry = None
        if not isinstance(entry, dict):
            raise InputError(f"{path}, row {row} (line {row}): not a JSON object; JSON lines hold one object a line")
        lines += [json.dumps(entry)] if line.strip() else []
    try:
        return pl.read_ndjson(io.BytesIO("\n".join(lines).encode()), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"{path}: cannot be read as JSON lines; every line must be one object with the same kind of values"
        ) from error


def dates(values: pl.Series, format: str) -> pl.Series:
    """Return dates of one written form as seconds since 1970 (UTC where it names no zone), int64; null for others."""
    return values.str.to_datetime(format, time_unit="us", strict=False).dt.epoch("s")


def numbers(values: pl.Series) -> pl.Series:
    """Return int64 where all values are whole, else float64; null for what is no finite number in int64's range."""
    if not (values.dtype.is_numeric() or values.dtype == pl.String):
        values = pl.Series(values.name, [None], dtype=pl.String).new_from_index(0, len(values))
    if values.dtype == pl.String:
        values = values.str.strip_chars()
    if isinstance(values.dtype, pl.Decimal) and values.dtype.scale:  # a cast to integers would cut its fractions off
        values = values.cast(pl.Float64)
    whole = values.cast(pl.Int64, strict=False) if not values.dtype.is_float() else None
    if whole is not None and not whole.has_nulls():
        return whole
    floats = values.cast(pl.Float64, strict=False)
    sound = floats.is_finite() & (floats.abs() < 2.0**63)
    floats = pl.select(pl.when(sound).then(floats)).to_series()
    if (floats != floats.floor()).any():
        return floats
    rounded = floats.cast(pl.Int64, strict=False)
    return rounded if whole is None else whole.zip_with(whole.is_not_null(), rounded)
