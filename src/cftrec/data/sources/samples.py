"""Logs that come as samples, a history and its target a row, already split: their rows joined to users' events."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from cftrec.data.dataset import CONTEXT, TEST, TRAIN, VALIDATION
from cftrec.data.sources.lines import Lines
from cftrec.data.sources.log import Log, event_frame, has_text, make_log
from cftrec.data.sources.sheet import Sheet, numbers
from cftrec.errors import InputError
from cftrec.ragged import Ragged

PARTS = {"train": TRAIN, "valid": VALIDATION, "test": TEST}  # in the order of time
SAMPLE = {
    "part": pl.String(),
    "row": pl.Int64(),
    "user": pl.String(),
    "history": pl.List(pl.String),
    "item": pl.String(),
}
"""Columns of `samples_log`'s samples."""
_END = "\0"  # of an entry; no text holds it
_NUMBERS = r"^\[(?:-?[0-9]+(?:\.[0-9]+)?(?:, ?)?)*\]$"


def samples_log(
    name: str,
    format: str,
    sheets: Sequence[Sheet | Lines],
    samples: pl.DataFrame,
    items: pl.DataFrame,
    *,
    dropped: dict[str, int],
    columns: dict[str, str | None],
) -> Log:
    """Make a Log of samples: each row is the sample of one event, and shows the events before it.

    The rows of a user, in order, form one history where each continues the one before (see `nest`); a row that does
    not becomes a user of its own, called "user [test row 7]". Events that are no row's target are `CONTEXT`.

    Args:
        name: name of the source.
        format: the format's name.
        sheets: the files read.
        samples: `part` str, `row` int (from 1), `user` str, `history` list of str, `item` str, in the order of time
            within a user, and perhaps `times` (list of str) and `time` (str); rows that lack one are dropped.
        items: as `make_log` takes them.
        dropped: rows that are not among the samples, by reason.
        columns: as `make_log` takes them.

    Raises:
        InputError: no sample is whole.
    """
    count = samples.height + sum(dropped.values())
    tests = {
        "malformed": pl.col("history").is_not_null(),
        "without_history": pl.col("history").list.len() > 0,
        "without_user": has_text("user"),
        "without_item": has_text("item"),
    }
    for reason, test in tests.items():
        before, samples = samples.height, samples.filter(test)
        dropped = {**dropped, reason: dropped.get(reason, 0) + before - samples.height}
    if samples.is_empty():
        raise InputError(f"{sheets[0].path}: no row holds a history and its target")
    flat = pl.concat([samples["history"].explode(), samples["item"]])
    codes = flat.cast(pl.Enum(flat.unique(maintain_order=True))).to_physical().to_numpy().astype(np.int64)
    history = Ragged(codes[: -samples.height], samples["history"].list.len().to_numpy().astype(np.int64))
    chains, alone = nest(samples["user"].to_list(), history, codes[-samples.height :])
    users = samples["user"].to_list()
    for row in alone:
        users[row] = f"{users[row]} [{samples['part'][row]} row {samples['row'][row]}]"
    places = np.concatenate([chain.places for chain in chains])
    owners = pl.Series("user", [users[chain.row] for chain in chains]).gather(
        np.repeat(np.arange(len(chains)), [len(chain.places) for chain in chains])
    )
    parts = samples["part"].replace_strict(PARTS, return_dtype=pl.UInt8).to_numpy()
    split = np.concatenate([np.full(len(flat) - samples.height, CONTEXT, np.uint8), parts])[places]
    events = event_frame(owners, flat.gather(places), _times(samples, places))
    rows = {"in": count, "kept": samples.height, "dropped": dropped}
    given = pl.Series("split", split)
    log = make_log(name, format, sheets, events, items, rows=rows, columns=columns, rows_are="samples", split=given)
    facts = {
        "rows_that_continue_no_other": len(alone),
        "events_known_from_histories_only": int((split == CONTEXT).sum()),
        "longest_history": int(history.lengths.max()),
    }
    return replace(log, facts=log.facts | facts)


@dataclass
class _Chain:
    """Events that follow each other: their codes, where each stands among all entries, and the first row."""

    row: int
    codes: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


def nest(users: Sequence[str], history: Ragged, targets: np.ndarray[Any, Any]) -> tuple[list[_Chain], list[int]]:
    """Join rows to chains of events, so that each row's history is what its chain holds right before its target.

    A row continues its user's chain where its history begins with the whole chain, or, for a history as long as the
    longest of all (a window that has moved on), with the chain's end; what it shows beyond the chain is added.

    Args:
        users: N, whose row it is.
        history: N runs of item codes.
        targets: [N], item codes.

    Returns:
        The chains, whose places count all entries of the histories, then the targets; and the rows that continue
        no chain of a user who has one: each is a chain of its own.
    """
    longest = int(history.lengths.max())
    chains: list[_Chain] = []
    of_user: dict[str, _Chain] = {}
    alone = []
    entries = len(history.values)
    values, starts = history.values.tolist(), history.starts.tolist()
    for row, (user, start, length, target) in enumerate(
        zip(users, starts, history.lengths.tolist(), targets.tolist(), strict=True)
    ):
        shown = values[start : start + length]
        chain = of_user.get(user)
        known = 0 if chain is None else _overlap(chain.codes, shown, longest)
        if chain is None or known is None:
            if chain is not None:
                alone.append(row)
            chain = _Chain(row)
            chains.append(chain)
            of_user.setdefault(user, chain)
            known = 0
        chain.codes += [*shown[known:], target]
        chain.places += [*range(start + known, start + length), entries + row]
    return chains, alone


def _overlap(chain: list[int], shown: list[int], longest: int) -> int | None:
    """Return how many of a history's first items the chain ends in, or None where the history does not continue it."""
    if shown[: len(chain)] == chain:
        return len(chain)
    if len(shown) == longest:
        return next((n for n in range(min(len(chain), longest), 0, -1) if chain[-n:] == shown[:n]), None)
    return None


def _times(samples: pl.DataFrame, places: np.ndarray[Any, Any]) -> pl.Series | None:
    """Return the timestamp of each event, or None where the samples have none or not all are numbers."""
    if "times" not in samples.columns:
        return None
    if (samples["times"].list.len().fill_null(0) != samples["history"].list.len()).any():
        return None
    times = numbers(pl.concat([samples["times"].explode(), samples["time"]]))
    return None if times.has_nulls() else times.gather(places)


def lists(cells: pl.Series) -> pl.Series:
    """Return cells that hold Python lists, such as "[1, 2]" or "['a', \"b's\"]", as lists of str; null for others."""
    plain = cells.str.contains(_NUMBERS).fill_null(False)
    split = cells.str.strip_chars("[]").str.replace_all(" ", "", literal=True).str.split(",")
    split = split.list.filter(pl.element() != "")
    if plain.all():
        return split
    literal = string_lists([None if easy else _list(cell) for cell, easy in zip(cells, plain, strict=True)])
    return split.zip_with(plain, literal)


def string_lists(values: Sequence[Sequence[str] | None]) -> pl.Series:
    """Return lists of str as a column, several times faster than polars makes one of Python's lists."""
    joined = [
        sound("".join(f"{entry.replace(_END, '')}{_END}" for entry in value)) if value is not None else None
        for value in values
    ]
    parts = pl.Series("list", joined, dtype=pl.String).str.split(_END)
    return parts.to_frame().select(pl.col("list").list.head(pl.col("list").list.len() - 1)).to_series()


def sound(text: str) -> str:
    """Return a text with "?" for halves of characters, which escapes can leave and no encoding has."""
    return text.encode(errors="replace").decode()


def _list(cell: str | None) -> list[str] | None:
    try:
        found = ast.literal_eval(cell or "")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return [str(entry) for entry in found] if isinstance(found, (list, tuple)) else None
