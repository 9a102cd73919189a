"""A long file of separated fields, read block by block: only the columns of a log stay, texts as codes."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl

from cftrec.artefacts import sha256
from cftrec.data.sources.compressed import opened
from cftrec.data.sources.lines import Codes, Lines
from cftrec.data.sources.sheet import BOM, Sheet, parse_text, read_text
from cftrec.errors import InputError

_BLOCK = 2**24  # bytes parsed at once; some eight times as many are held while they are


def read_log(
    path: Path,
    separator: str,
    take: Callable[[Sheet], pl.DataFrame],
    *,
    columns: Sequence[str] | None = None,
    quotes: bool = False,
    limit: int | None = None,
    block: int = _BLOCK,
    codes: Codes | None = None,
    merge: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
) -> Lines:
    """Read the events of a file that may be too long to be held as text.

    Args:
        path: the file.
        separator: what stands between fields; one character or more.
        take: makes the wanted columns of a part of the file; those of str become categories, 4 bytes a row.
        columns: names of the columns of a file without header.
        quotes: fields may be quoted with `"` as in CSV, line breaks included.
        limit: look at about so many lines only.
        block: bytes parsed at once.
        codes: the categories, where several files have them in common.
        merge: makes of the rows so far those that stay, where later ones may take their place; called each time that
            their number has doubled.

    Returns:
        The file's facts, and in `frame` what `take` made of all rows.

    Raises:
        InputError: as `read_text` and `take`.
    """
    codes, frames = codes or Codes(), list[pl.DataFrame]()
    if limit is not None:
        sheet = read_text(path, separator, columns=columns, quotes=quotes, limit=limit)
        return Lines(path, codes.code(take(sheet)), 0, sheet.facts)
    header = b""
    for text in _blocks(path, quotes, block):
        try:
            sheet = parse_text(path, header + text, separator, columns=columns, quotes=quotes)
            frames.append(codes.code(take(sheet)))
        except InputError:
            if frames:  # a broken row is rare: then the file is read as a whole, which says where
                take(read_text(path, separator, columns=columns, quotes=quotes))
            raise
        if columns is None and not header:
            header = _header(text, quotes)
        if merge is not None and sum(frame.height for frame in frames) > 2 * frames[0].height:
            frames = [merge(pl.concat(frames, how="vertical_relaxed"))]
    if not frames:
        raise InputError(f"{path}: the file is empty")
    facts = {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
    # Timestamps are whole in one block and not in another.
    return Lines(path, pl.concat(frames, how="vertical_relaxed", rechunk=True), 0, facts)


def _header(block: bytes, quotes: bool) -> bytes:
    """Return a file's first row, which may hold line breaks inside quotes; blank lines before it are none."""
    header = b""
    for line in io.BytesIO(block.removeprefix(BOM)):
        header = header + line if header.strip() else line
        if header.strip() and not (quotes and header.count(b'"') % 2):
            break
    return header


def _blocks(path: Path, quotes: bool, size: int) -> Iterator[bytes]:
    """Yield blocks of whole rows: a row ends with a line, unless inside quotes."""
    with opened(path, True) as (file, advance):
        while block := file.read(size):
            parts = [block, file.readline()]
            inside = quotes and sum(part.count(b'"') for part in parts) % 2 == 1
            while inside and (line := file.readline()):
                parts.append(line)
                inside ^= line.count(b'"') % 2 == 1
            advance()
            yield b"".join(parts)
