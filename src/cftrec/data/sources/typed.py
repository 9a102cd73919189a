"""A long table whose values have types, Parquet or JSON lines, read part by part: what stays of it is as in `stream`.

A value must read the same in whichever part it stands, so the kind of a column is found over the whole file before: ids
that a missing value had turned into floats are whole numbers only if all of them are. A file that is odd in any way is
read whole, which mends it or says what is wrong.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cftrec.artefacts import sha256
from cftrec.data.sources.compressed import opened
from cftrec.data.sources.lines import Codes, Lines
from cftrec.data.sources.sheet import BOM, Sheet, are_whole, read_table

_ROWS = 2**18  # of a Parquet part
_BYTES = 2**24  # of a part of JSON lines

Parts = Iterator[pl.DataFrame]


class _Odd(Exception):
    """The file cannot be read in parts."""


def read_typed_log(
    path: Path,
    columns: Sequence[str],
    take: Callable[[Sheet], pl.DataFrame],
    *,
    limit: int | None = None,
    rows: int = _ROWS,
    block: int = _BYTES,
) -> Lines:
    """Read the events of a .parquet, .jsonl or .ndjson file that may be too long to be held as it is.

    Args:
        path: the file.
        columns: those that `take` reads.
        take: makes the wanted columns of a part of the file; those of str become categories, 4 bytes a row.
        limit: look at about so many rows only.
        rows: read at once of a Parquet file.
        block: bytes of JSON lines parsed at once.

    Returns:
        The file's facts, and in `frame` what `take` made of all rows.

    Raises:
        InputError: as `read_table` and `take`.
    """
    columns = list(dict.fromkeys(columns))
    if limit is None and path.is_file():
        try:
            return _in_parts(path, columns, take, rows, block)
        except _Odd:
            pass
    sheet = read_table(path, limit)
    return Lines(path, Codes().code(take(sheet)), 0, sheet.facts)


def _in_parts(
    path: Path, columns: Sequence[str], take: Callable[[Sheet], pl.DataFrame], rows: int, block: int
) -> Lines:
    if path.suffix.lower() == ".parquet":
        head = _parquet_head(path, columns)
        floats = [name for name, dtype in head.schema.items() if dtype == pl.Float64]
        types = _types(chain([head], _parquet(path, floats, rows) if floats else ()), columns)
        parts = _parquet(path, columns, rows)
    else:
        types = _types(_json(path, columns, block), columns)
        parts = _json(path, columns, block)
    codes, frames, before = Codes(), list[pl.DataFrame](), 0
    for part in parts:
        places = pl.int_range(before, before + part.height, eager=True)
        frames.append(codes.code(take(Sheet(path, _cast(part, types), places, None, {}))))
        before += part.height
    if not frames:
        raise _Odd
    facts = {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
    # Timestamps are whole in one part and not in another.
    return Lines(path, pl.concat(frames, how="vertical_relaxed", rechunk=True), 0, facts)


def _parquet_head(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Return a table of no rows with the columns that are read."""
    try:
        schema = pl.read_parquet_schema(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _Odd from error
    if not set(columns) <= set(schema):
        raise _Odd
    return pl.DataFrame(schema={name: schema[name] for name in columns})


def _parquet(path: Path, columns: Sequence[str], rows: int) -> Parts:
    with opened(path, True) as (file, advance):
        try:
            for batch in pq.ParquetFile(file).iter_batches(rows, columns=list(columns)):
                advance()
                yield pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch]))).fill_nan(None)
        except (OSError, pa.ArrowException) as error:  # damaged; Arrow has no other errors of its own
            raise _Odd from error


def _json(path: Path, columns: Sequence[str], block: int) -> Parts:
    mark = BOM
    with opened(path, True) as (file, advance):
        while read := file.read(block):
            text = (read + file.readline()).removeprefix(mark)
            mark = b""
            advance()
            if not text.strip():
                continue
            try:
                part = pl.read_ndjson(io.BytesIO(text), infer_schema_length=None)
            except pl.exceptions.PolarsError as error:
                raise _Odd from error
            yield part.select(name for name in columns if name in part.columns)


def _types(parts: Iterable[pl.DataFrame], columns: Sequence[str]) -> dict[str, pl.DataType]:
    """Return the kind of each column over all parts, floats as Int64 if all are whole, else as text.

    As text a float keeps its digits, and is a number again where it is read as one.
    """
    kinds: dict[str, set[pl.DataType]] = {name: set() for name in columns}
    whole = dict.fromkeys(columns, True)
    for part in parts:
        for name, dtype in part.schema.items():
            kinds[name].add(dtype)
            if dtype == pl.Float64:
                whole[name] &= are_whole(part[name])
    return {name: _type(found - {pl.Null()}, whole[name]) for name, found in kinds.items()}


def _type(kinds: set[pl.DataType], whole: bool) -> pl.DataType:
    """Return what a column of these kinds, over all parts, is read as.

    Raises:
        _Odd: they are kinds of which a part alone does not say how its values read.
    """
    if kinds in ({pl.Float64()}, {pl.Float64(), pl.Int64()}):
        return pl.Int64() if whole else pl.String()
    if len(kinds) != 1:
        raise _Odd
    kind = next(iter(kinds))
    if kind.is_integer() or isinstance(kind, pl.String | pl.Date | pl.Datetime):
        return kind
    if isinstance(kind, pl.Categorical | pl.Enum):
        return pl.String()
    raise _Odd


def _cast(part: pl.DataFrame, types: dict[str, pl.DataType]) -> pl.DataFrame:
    """Return a part with all columns in their types; those that it does not have are null."""
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in types.items() if name not in part.columns]
    whole = part.with_columns(missing).select(*types)
    # 5 is 5.0 in a column that has floats which are not whole, as it is where the file is read whole.
    floats = [pl.col(n).cast(pl.Float64) for n, t in types.items() if t == pl.String and whole[n].dtype.is_integer()]
    return whole.with_columns(floats).cast(pl.Schema(types))
