"""A long table whose values have types, Parquet or JSON lines, read part by part: what stays of it is as in `stream`.

A column's type is that of the whole file, so that a value reads the same in whichever part it stands: ids that a
missing value had turned into floats are whole numbers only if all of them are.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cftrec.artefacts import sha256
from cftrec.data.sources.lines import Codes, Lines, opened
from cftrec.data.sources.sheet import BOM, Sheet, read_table
from cftrec.errors import InputError

_ROWS = 2**18  # of a Parquet part
_BYTES = 2**24  # of a part of JSON lines

Parts = Iterator[pl.DataFrame]


def read_typed_log(
    path: Path,
    take: Callable[[Sheet], pl.DataFrame],
    *,
    limit: int | None = None,
    rows: int = _ROWS,
    block: int = _BYTES,
) -> Lines:
    """Read the events of a .parquet, .jsonl or .ndjson file that may be too long to be held as it is.

    Args:
        path: the file.
        take: makes the wanted columns of a part of the file; those of str become categories, 4 bytes a row.
        limit: look at about so many rows only.
        rows: read at once of a Parquet file.
        block: bytes of JSON lines parsed at once.

    Returns:
        The file's facts, and in `frame` what `take` made of all rows.

    Raises:
        InputError: as `read_table` and `take`.
    """
    codes, frames, before = Codes(), list[pl.DataFrame](), 0
    if limit is not None or not path.is_file():
        sheet = read_table(path, limit)
        return Lines(path, codes.code(take(sheet)), 0, sheet.facts)
    try:
        if path.suffix.lower() == ".parquet":
            head = _parquet_head(path)
            floats = [name for name, dtype in head.schema.items() if dtype.is_float()]
            types = _types(chain([head], _parquet(path, rows, floats) if floats else ()), path)
            parts = _parquet(path, rows, head.columns)
        else:
            types = _types(_json(path, block), path)
            parts = _json(path, block)
        for part in parts:
            places = pl.int_range(before, before + part.height, eager=True)
            frames.append(codes.code(take(Sheet(path, types.of(part), places, None, {}))))
            before += part.height
    except (pl.exceptions.PolarsError, pa.ArrowException):  # no table, or one whose parts do not fit together
        sheet = read_table(path)
        return Lines(path, Codes().code(take(sheet)), 0, sheet.facts)
    facts = {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
    # Timestamps are whole in one part and not in another.
    return Lines(path, pl.concat(frames, how="vertical_relaxed", rechunk=True), 0, facts)


def _parquet_head(path: Path) -> pl.DataFrame:
    """Return a table of no rows."""
    return pl.DataFrame(pl.from_arrow(pq.read_schema(path).empty_table()))


def _parquet(path: Path, rows: int, columns: list[str]) -> Parts:
    with opened(path, True) as (file, advance):
        for batch in pq.ParquetFile(file).iter_batches(rows, columns=columns):
            advance()
            yield pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch])))


def _json(path: Path, block: int) -> Parts:
    mark = BOM
    with opened(path, True) as (file, advance):
        while read := file.read(block):
            text = (read + file.readline()).removeprefix(mark)
            mark = b""
            advance()
            if text.strip():
                yield pl.read_ndjson(io.BytesIO(text), infer_schema_length=None)
    if mark:
        raise InputError(f"{path}: the file is empty")


@dataclass(frozen=True)
class _Types:
    """The type of each column: one that holds all parts' values, then what those become that are floats."""

    common: pl.Schema
    floats: pl.Schema

    def of(self, part: pl.DataFrame) -> pl.DataFrame:
        """Return a part with all columns in their types; those that it does not have are null."""
        missing = [pl.lit(None, dtype).alias(name) for name, dtype in self.common.items() if name not in part.columns]
        return part.with_columns(missing).select(*self.common).cast(self.common).cast(self.floats, strict=False)


def _types(parts: Iterable[pl.DataFrame], path: Path) -> _Types:
    """Find the types of all parts: floats that are whole in all of them become Int64, others text.

    As text a float keeps its digits, and is a number again where it is read as one.
    """
    common: pl.DataFrame | None = None
    whole: dict[str, bool] = {}
    for part in parts:
        known = [] if common is None else [common]
        common = pl.concat([*known, part.clear()], how="diagonal_relaxed")
        for name, dtype in part.schema.items():
            if dtype.is_float():
                values = part[name]
                sound = bool((values.is_finite() & (values == values.floor())).all())
                whole[name] = whole.get(name, True) and sound
    if common is None:
        raise InputError(f"{path}: the file is empty")
    floats = {name: pl.Int64() if is_whole else pl.String() for name, is_whole in whole.items()}
    return _Types(common.schema, pl.Schema(floats))
