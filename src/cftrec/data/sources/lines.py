"""Long files of lines, plain, gzip or zstd, read block by block: broken lines are counted and shown, never fatal."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cftrec.artefacts import sha256
from cftrec.data.sources.compressed import opened
from cftrec.data.sources.sheet import BOM, listed
from cftrec.errors import InputError

_BLOCK = 2**22  # bytes parsed at once; measured
_LONG_LINE = 2**26  # bytes of a first line
_SHOWN = 3  # broken lines whose numbers are kept


@dataclass(frozen=True, eq=False)
class Block:
    """What the lines of a block hold.

    Attributes:
        frame: a row for each whole line.
        broken: which lines of the block (from 0, blank ones counted) hold nothing readable.
        latin: number of lines that were not UTF-8 and were read as Latin-1.
    """

    frame: pl.DataFrame
    broken: list[int]
    latin: int = 0


@dataclass(frozen=True, eq=False)
class Lines:
    """The readable lines of one file.

    Attributes:
        path: the file.
        frame: a row a line, or what was taken of the lines.
        malformed: number of lines that could not be read.
        facts: name, bytes, SHA-256 (of a whole file), lines, malformed ones, the numbers of the first of these, and
            lines read as Latin-1.
    """

    path: Path
    frame: pl.DataFrame
    malformed: int
    facts: dict[str, Any]


class Codes:
    """Categories of each column of str, common to all blocks and to nothing else."""

    def __init__(self) -> None:
        self.known: dict[str, pl.Categorical] = {}

    def code(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return a block with its texts as categories."""
        texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
        for name in texts:
            self.known.setdefault(name, pl.Categorical(pl.Categories.random()))
        return frame.with_columns(pl.col(name).cast(self.known[name]) for name in texts)


def read_lines(
    path: Path,
    parse: Callable[[bytes], Block],
    what: str,
    limit: int | None = None,
    take: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
) -> Lines:
    """Read a file of lines; blank ones do not count.

    Args:
        path: the file; gzip and zstd are known by their first bytes.
        parse: makes a table of whole lines.
        what: what a line should be, for messages, such as "JSON objects".
        limit: look at so many lines only.
        take: makes of each block's table what is kept of it, its texts as categories, which are 4 bytes a row; None:
            all of it is kept, as it is.

    Raises:
        InputError: no such file, damaged or empty, or most of its lines cannot be read.
    """
    frames: list[pl.DataFrame] = []
    broken: list[int] = []
    sound = malformed = latin = before = 0
    codes = Codes()
    for text in _blocks(path, limit):
        block = parse(text)
        frames.append(block.frame if take is None else codes.code(take(block.frame)))
        sound += block.frame.height
        broken += [before + line + 1 for line in block.broken[: _SHOWN - len(broken)]]
        malformed, latin = malformed + len(block.broken), latin + block.latin
        before += text.count(b"\n")
    # Timestamps are whole in one block and not in another.
    frame = pl.concat(frames, how="vertical_relaxed") if frames else pl.DataFrame()
    lines = sound + malformed
    if not lines:
        raise InputError(f"{path}: the file is empty")
    if 2 * malformed > lines:
        raise InputError(
            f"{path}: {malformed} of {lines} lines are no {what} (line {broken[0]}); is it the right file?"
        )
    facts = {"name": path.name, "bytes": path.stat().st_size}
    if limit is None:
        facts["sha256"] = sha256(path)
    facts |= {"lines": lines, "malformed": malformed, "malformed_lines": broken, "latin_1_lines": latin}
    return Lines(path, frame.rechunk(), malformed, facts)


def read_fields(
    path: Path,
    columns: tuple[str, ...],
    take: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    *,
    header: tuple[str, ...] | None = None,
    limit: int | None = None,
) -> Lines:
    """Read lines of tab-separated fields, never quoted, all as str; a line with more or fewer fields is broken.

    Args:
        path: the file.
        columns: names of the fields.
        take: what of a long log is kept, a row a line, as in `read_lines`.
        header: what the first line must read, or None where there is none.
        limit: look at so many lines only.

    Raises:
        InputError: as `read_lines`, or another header.
    """
    first = first_lines(path)[:1]
    if header is not None and (not first or tuple(decoded(first[0]).rstrip("\r").split("\t")) != header):
        raise InputError(f"{path}: its first line is not {listed(header)}; is it the right file?")
    found = read_lines(path, lambda block: _split(block, columns), f"lines of {len(columns)} fields", limit, take)
    if header is None:
        return found
    return Lines(path, found.frame.slice(1), found.malformed, found.facts | {"lines": found.facts["lines"] - 1})


def first_lines(path: Path) -> list[bytes]:
    """Return the whole lines among a file's first 256 KiB, and a longer first one up to 64 MiB."""
    with opened(path, False) as (file, _):
        head = file.read(2**18)
        whole = len(head) < 2**18
        if b"\n" not in head:  # one long line
            head += file.readline(_LONG_LINE)
            whole = head.endswith(b"\n") or len(head) < _LONG_LINE
    lines = head.removeprefix(BOM).split(b"\n")
    return lines if whole else lines[:-1]


def decoded(line: bytes) -> str:
    """Return a line's text, UTF-8 where it is, else Latin-1, in which every byte is a character."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def decoded_block(block: bytes) -> tuple[str, int]:
    """Return the text of lines, each decoded on its own, and how many were not UTF-8."""
    try:
        return block.decode(), 0
    except UnicodeDecodeError:
        lines = [(line, decoded(line)) for line in block.split(b"\n")]
        return "\n".join(text for _, text in lines), sum(text.encode() != line for line, text in lines)


def _split(block: bytes, columns: tuple[str, ...]) -> Block:
    text, latin = decoded_block(block)
    lines = pl.Series("line", text.split("\n"), dtype=pl.String).str.strip_chars_end("\r")
    filled = lines.str.strip_chars() != ""
    sound = (lines.str.count_matches("\t", literal=True) == len(columns) - 1) & ~lines.str.contains("\0", literal=True)
    parts = lines.filter(filled & sound).str.split_exact("\t", len(columns) - 1)
    frame = parts.struct.rename_fields(list(columns)).struct.unnest()
    return Block(frame, (filled & ~sound).arg_true().to_list(), latin)


def _blocks(path: Path, limit: int | None) -> Iterator[bytes]:
    """Yield blocks of whole lines, without byte order mark."""
    left, rest, mark = limit, b"", BOM
    with opened(path, limit is None) as (file, advance):
        while left != 0:
            read = file.read(_BLOCK)
            advance()
            block = rest + read
            end = block.rfind(b"\n") + 1 if read else len(block)
            block, rest = block[:end], block[end:]
            if left is not None:
                lines = block.splitlines(keepends=True)[:left]
                left, block = left - len(lines), b"".join(lines)
            if block:
                yield block.removeprefix(mark)
                mark = b""
            if not read:
                return
