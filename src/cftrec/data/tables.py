"""A log as integers while it is prepared, and the parts it is worked on in."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from cftrec.data.options import PrepareOptions
from cftrec.data.sources import Log
from cftrec.data.titles import clean, join_year, year_column
from cftrec.errors import InputError

Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64] | npt.NDArray[np.float64]  # whole, or with fractions, which decide the order too

_EVENT_BYTES = 80  # of 25 million, measured: 74, the log, its integers, copies of them and what saving takes
_PART_BYTES = 64  # of an event while a part is ordered
_PART_EVENTS = 2**20


@dataclass(frozen=True, eq=False)
class Tables:
    """A log as integers; users and items may be without events."""

    users: pl.Series  # [U] ids
    items: pl.DataFrame  # [I] item_id, title, others
    user: Codes  # [E]
    item: Codes  # [E]
    timestamps: Times | None  # [E]
    split: npt.NDArray[np.uint8] | None = None  # [E], of a source with given splits
    row: Ints | None = None  # [E], place in the source, once events are in order

    def counts(self) -> dict[str, int]:
        """Return the number of users, items and events."""
        return {"users": len(self.users), "items": self.items.height, "events": len(self.user)}

    def kept(self, events: Bools, users: Bools | None = None, items: Bools | None = None) -> "Tables":
        """Return what the masks keep, renumbered; events must keep only users and items that stay."""
        if all(mask is None or mask.all() for mask in (events, users, items)):
            return self
        users = np.ones(len(self.users), bool) if users is None else users
        items = np.ones(self.items.height, bool) if items is None else items
        return Tables(
            users=self.users.filter(pl.Series(users)),
            items=self.items.filter(pl.Series(items)),
            user=_renumbered(users)[self.user[events]],
            item=_renumbered(items)[self.item[events]],
            timestamps=None if self.timestamps is None else self.timestamps[events],
            split=None if self.split is None else self.split[events],
            row=None if self.row is None else self.row[events],
        )

    def offsets(self) -> Ints:
        """Return where each user's events begin once they are in order, closed by their number: int64 [U + 1]."""
        counts = np.bincount(self.user, minlength=len(self.users))
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def encode(log: Log, options: PrepareOptions) -> Tables:
    """Return a log as integers, its items with clean texts.

    Raises:
        InputError: the log does not fit the memory that the options give.
    """
    need = log.events.height * _EVENT_BYTES / 2**30
    if need > options.memory:
        raise InputError(
            f"option memory: {log.events.height:,} events need about {need:.2g} GiB, over {options.memory:g}; raise it"
        )
    items = log.items.with_columns(clean(log.items[name]) for name in log.items.columns if name != "item_id")
    year = year_column(items.columns[2:]) if options.join_year else None
    if year is not None:
        items = items.with_columns(join_year(items["title"], items[year]))
    user, users = _codes(log.events["user"])
    item, taken = _codes(log.events["item"])
    only_in_log = taken.filter(~taken.is_in(items["item_id"].implode()))
    items = pl.concat([items, pl.DataFrame([only_in_log.alias("item_id")])], how="diagonal")
    place = taken.cast(pl.Enum(items["item_id"])).to_physical().to_numpy().astype(np.int32)
    timed = not log.events["timestamp"].has_nulls()
    return Tables(
        users=users.alias("user_id"),
        items=items,
        user=user,
        item=place[item],
        timestamps=log.events["timestamp"].to_numpy() if timed else None,
        split=None if log.split is None else log.split.to_numpy(),
    )


def user_parts(offsets: Ints, options: PrepareOptions) -> Iterator[tuple[int, int]]:
    """Yield ranges of users whose events are worked on together; a range may be one user of many events.

    A million events fit the processor's caches better than all; but at most some 32 parts, since each is looked up
    among all events, and never more than an eighth of the memory. Ranges of users without events are left out.
    """
    size = min(max(_PART_EVENTS, int(offsets[-1]) // 32), int(options.memory * 2**30 / 8 / _PART_BYTES))
    start = 0
    while start < len(offsets) - 1:
        stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + max(1, size), side="right")) - 1)
        if offsets[start] < offsets[stop]:
            yield start, stop
        start = stop


def equal_events(tables: Tables, tied: Bools) -> int:
    """Return how many events, all of them among the tied, equal an earlier one in user, item and timestamp."""
    assert tables.timestamps is not None
    events = pl.DataFrame({"user": tables.user[tied], "item": tables.item[tied], "time": tables.timestamps[tied]})
    return events.height - events.n_unique()


def repeats_previous(user: npt.NDArray[np.integer], value: npt.NDArray[np.number]) -> Bools:
    """Return which of sorted events have the user and value of the event before."""
    follows = np.zeros(len(user), bool)
    follows[1:] = (user[1:] == user[:-1]) & (value[1:] == value[:-1])
    return follows


def seen_before(tables: Tables, options: PrepareOptions) -> Bools:
    """Return which of sorted events have the same user and item as an earlier one."""
    offsets = tables.offsets()
    seen = np.empty(len(tables.user), bool)
    for start, stop in user_parts(offsets, options):
        part = slice(offsets[start], offsets[stop])
        pairs = tables.user[part].astype(np.int64) * tables.items.height + tables.item[part]
        seen[part] = ~pl.Series(pairs).is_first_distinct().to_numpy()
    return seen


def _codes(values: pl.Series) -> tuple[Codes, pl.Series]:
    """Return int32 codes and the names they stand for, str, in the order of their first use."""
    if values.dtype == pl.String:
        values = values.cast(pl.Categorical(pl.Categories.random()))
    physical = values.to_physical().to_numpy()
    names = values.unique(maintain_order=True)
    code = np.zeros(int(physical.max()) + 1, np.int32)
    code[names.to_physical().to_numpy()] = np.arange(len(names), dtype=np.int32)
    return code[physical], names.cast(pl.String)


def _renumbered(kept: Bools) -> Codes:
    return (np.cumsum(kept) - 1).astype(np.int32)
