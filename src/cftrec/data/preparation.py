"""From a log to a Dataset in named steps, each of which accounts for what it drops: in = kept + dropped.

read -> untitled -> same_title -> order -> repeats -> core -> split
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
import polars as pl

from cftrec.data.dataset import CONTEXT, SPLITS, TEST, TRAIN, VALIDATION, Dataset
from cftrec.data.sources import AUTO, Log, SourceOptions, read_source
from cftrec.data.sources.sheet import listed, quoted
from cftrec.data.titles import clean, join_year, year_column
from cftrec.errors import InputError

_Step = dict[str, Any]
_Dropped = dict[str, dict[str, int]]  # users, items or events -> why -> how many
_Bools = npt.NDArray[np.bool_]
_Ints = npt.NDArray[np.int64]
_Times = npt.NDArray[np.int64] | npt.NDArray[np.float64]  # whole, or with fractions, which decide the order too


@dataclass(frozen=True)
class PrepareOptions(SourceOptions):
    """How a log becomes a dataset.

    Args:
        join_year: append the year to titles without one where the items have a column of years, as "Star Wars (1977)".
        max_untitled: share of the items in the log that may be without title, 0 to 1; they are dropped and counted, and more are refused.
        same_title: what becomes of items with equal titles: merge them into the first one, or distinguish them by their item id in brackets.
        repeats: what becomes of a user's repeated items: keep all, keep the first of each item, or drop those that directly follow the same item.
        min_user_events: events that a user must have, counted again until nothing changes, targets included; 1 drops none.
        min_item_events: events that an item must have, counted likewise; 1 drops the items that nobody took, 0 keeps them.
        split: leave-one-out (each user's last event is the test, the one before it the validation target; users with fewer than 3 events only train) or time (80, 10 and 10 percent of all events by timestamp, equal timestamps on one side); a source with given splits keeps them.
        seed: seed of the shuffle of a user's events with equal timestamps, whose true order nobody knows.
    """  # noqa: E501 - the command line shows each entry as its help, a line each

    join_year: bool = True
    max_untitled: float = 0.1
    same_title: Literal["merge", "distinguish"] = "merge"
    repeats: Literal["keep", "first", "drop-consecutive"] = "keep"
    min_user_events: int = 1
    min_item_events: int = 1
    split: Literal["leave-one-out", "time"] = "leave-one-out"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `InputError` for a value that is out of its range; lists the known ones."""
        types = get_type_hints(PrepareOptions)
        for name in ("same_title", "repeats", "split"):
            value, known = getattr(self, name), get_args(types[name])
            if value not in known:
                raise InputError(f"option {name}: unknown value {quoted(value)}; known are {listed(known)}")
        for name in ("min_user_events", "min_item_events", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"option {name}: {getattr(self, name)} is below 0; give 0 or more")
        if not 0 <= self.max_untitled <= 1:
            raise InputError(f"option max_untitled: {self.max_untitled} is no share; give 0 to 1")


@dataclass(frozen=True, eq=False)
class _Tables:
    """A log as integers; users and items may be without events."""

    users: pl.Series  # [U] ids
    items: pl.DataFrame  # [I] item_id, title, others
    user: _Ints  # [E]
    item: _Ints  # [E]
    timestamps: _Times | None  # [E]
    split: npt.NDArray[np.uint8] | None = None  # [E], of a source with given splits

    def counts(self) -> dict[str, int]:
        return {"users": len(self.users), "items": self.items.height, "events": len(self.user)}

    def kept(self, events: _Bools, users: _Bools | None = None, items: _Bools | None = None) -> "_Tables":
        """Return what the masks keep, renumbered; events must keep only users and items that stay."""
        users = np.ones(len(self.users), bool) if users is None else users
        items = np.ones(self.items.height, bool) if items is None else items
        return _Tables(
            users=self.users.filter(pl.Series(users)),
            items=self.items.filter(pl.Series(items)),
            user=(np.cumsum(users) - 1)[self.user[events]],
            item=(np.cumsum(items) - 1)[self.item[events]],
            timestamps=None if self.timestamps is None else self.timestamps[events],
            split=None if self.split is None else self.split[events],
        )


_Outcome = tuple[_Tables, _Dropped, dict[str, Any]]  # what is left, what went, notes for the manifest


def prepare(source: str | Path, format: str = AUTO, options: PrepareOptions | None = None) -> Dataset:
    """Read a log and make it a Dataset; equal sources and options give equal datasets.

    Items keep the order of the source's item table, users that of their first event in the log.

    Args:
        source: a folder or file, or `installed` (movielens).
        format: one of `cftrec.data.sources.SOURCES`, or `auto`, which looks at the source.
        options: default `PrepareOptions()`.

    Raises:
        InputError: the source cannot be read, too many items are untitled, or nothing is left to train or to test on.
    """
    options = options or PrepareOptions()
    log = read_source(source, format, options)
    tables, duplicates = _encode(log, options)
    steps: list[_Step] = [_reading(log, tables.counts())]
    for name, step in _STEPS.items():
        before = tables.counts()
        tables, dropped, notes = step(tables, options)
        steps.append(_account(name, before, tables.counts(), dropped) | notes)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(tables.user, minlength=len(tables.users)))])
    if tables.split is not None:
        split, rule = _given(tables)
    else:
        split, rule = (_leave_one_out if options.split == "leave-one-out" else _by_time)(tables, offsets)
    manifest = {
        "name": log.facts["name"],
        "source": log.facts,
        "options": _named_options(options),
        "steps": steps,
        "counts": tables.counts(),
        "split": rule | {"parts": _parts(tables, split)},
        "leakage": _leakage(tables, split, offsets, duplicates),
    }
    return Dataset(
        items=tables.items,
        users=tables.users,
        offsets=offsets.astype(np.int64),
        events=tables.item.astype(np.int32),
        split=split,
        timestamps=None if tables.timestamps is None else np.floor(tables.timestamps).astype(np.int64),
        manifest=manifest,
    )


def _named_options(options: PrepareOptions) -> dict[str, Any]:
    """Return every option; a file by its name, for where it lies on this machine means nothing elsewhere."""
    return asdict(options) | {"items": None if options.items is None else Path(options.items).name}


def _encode(log: Log, options: PrepareOptions) -> tuple[_Tables, int | None]:
    """Return the log as integers with clean texts, and how many events equal an earlier one in all columns."""
    items = log.items.with_columns(clean(log.items[name]) for name in log.items.columns if name != "item_id")
    year = year_column(items.columns[2:]) if options.join_year else None
    if year is not None:
        items = items.with_columns(join_year(items["title"], items[year]))
    users = log.events["user"].unique(maintain_order=True)
    only_in_log = log.events["item"].unique(maintain_order=True)
    only_in_log = only_in_log.filter(~only_in_log.is_in(items["item_id"].implode()))
    items = pl.concat([items, pl.DataFrame([only_in_log.alias("item_id")])], how="diagonal")
    timed = not log.events["timestamp"].has_nulls()
    tables = _Tables(
        users=users.alias("user_id"),
        items=items,
        user=_codes(log.events["user"], users),
        item=_codes(log.events["item"], items["item_id"]),
        timestamps=log.events["timestamp"].to_numpy() if timed else None,
        split=None if log.split is None else log.split.to_numpy(),
    )
    return tables, log.events.height - log.events.n_unique() if timed else None


def _reading(log: Log, counts: dict[str, int]) -> _Step:
    """Return the first step's entry of the manifest: what of the source's rows became the log with these counts.

    Rows that are no events (sequences, samples) have an account of their own, `rows`; items that only the log names
    come without a row.
    """
    rows, dropped = log.facts["log_rows"], dict(log.facts["item_rows"]["dropped"])
    before = counts | {"items": counts["items"] + sum(dropped.values())}
    step = _account("read", before, counts, {"items": dropped})
    return step | ({"events": rows} if log.facts["rows_are"] == "events" else {"rows": rows})


def _codes(values: pl.Series, names: pl.Series) -> _Ints:
    return values.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)


def _account(name: str, before: dict[str, int], after: dict[str, int], dropped: _Dropped) -> _Step:
    """Return a step's entry of the manifest."""
    counts = {
        what: {"in": before[what], "kept": after[what], "dropped": dropped.get(what, {})}
        for what in ("users", "items", "events")
    }
    return {"step": name} | counts


def _drop_untitled(tables: _Tables, options: PrepareOptions) -> _Outcome:
    """Drop items without title, and their events."""
    titled = tables.items.select(pl.col("title").fill_null("") != "").to_series().to_numpy()
    taken = np.bincount(tables.item, minlength=len(titled)) > 0
    missing = taken & ~titled
    share = missing.sum() / taken.sum()
    if share == 1:
        raise InputError("no item of the log has a title; check that its item ids are those of the item table")
    if share > options.max_untitled:
        example = quoted(tables.items["item_id"][int(missing.argmax())])
        raise InputError(
            f"option max_untitled: {missing.sum()} of the log's {taken.sum()} items have no title (such as item "
            f"{example}), over the share {options.max_untitled:g}; mend the titles or item ids, or raise the option"
        )
    kept = titled[tables.item]
    dropped = {"items": {"untitled": int((~titled).sum())}, "events": {"of_untitled_items": int((~kept).sum())}}
    return tables.kept(kept, items=titled), dropped, {"untitled_items_in_log": int(missing.sum())}


def _resolve_same_titles(tables: _Tables, options: PrepareOptions) -> _Outcome:
    """Merge items with equal titles into the first of them, or tell them apart by their item ids."""
    if options.same_title == "distinguish":
        items, renamed = tables.items, pl.repeat(False, tables.items.height, eager=True)
        while (same := items["title"].is_duplicated()).any():  # again, for a title may read "X [7]" from the start
            renamed |= same
            named = pl.format("{} [{}]", "title", "item_id")
            items = items.with_columns(pl.when(same).then(named).otherwise("title").alias("title"))
        return replace(tables, items=items), {}, {"renamed_items": int(renamed.sum())}
    first = tables.items.with_row_index("row").select(pl.col("row").min().over("title")).to_series().to_numpy()
    first = first.astype(np.int64)
    stays = first == np.arange(len(first))
    moved = int((~stays[tables.item]).sum())
    merged = replace(tables, item=first[tables.item]).kept(np.ones(len(tables.item), bool), items=stays)
    return merged, {"items": {"same_title": int((~stays).sum())}}, {"events_moved_to_the_first_item": moved}


def _order(tables: _Tables, options: PrepareOptions) -> _Outcome:
    """Sort events by user and time; within equal timestamps by a seeded shuffle, for rows are in no order there."""
    user, times = tables.user, tables.timestamps
    if times is None or tables.split is not None:
        order = np.argsort(user, kind="stable")
        notes: dict[str, Any] = {"rule": "the order of the source"}
    else:
        shuffle = np.random.default_rng(options.seed).permutation(len(user))
        order = np.lexsort((shuffle, times, user))
        tied = int(_tied(user[order], times[order]).sum())
        rule = "by timestamp, equal ones of a user in a seeded shuffle"
        notes = {"rule": rule, "tied_events": tied, "tied_share": tied / len(user)}
    times = None if times is None else times[order]
    split = None if tables.split is None else tables.split[order]
    return replace(tables, user=user[order], item=tables.item[order], timestamps=times, split=split), {}, notes


def _tied(user: _Ints, times: _Times) -> _Bools:
    """Return which of sorted events share user and timestamp with a neighbour."""
    previous = _repeats_previous(user, times)
    return previous | np.append(previous[1:], False)


def _drop_repeats(tables: _Tables, options: PrepareOptions) -> _Outcome:
    """Drop a user's repeated items by the rule of the options; events are sorted."""
    if options.repeats == "first":
        kept = ~_seen_before(tables)
    elif options.repeats == "drop-consecutive":
        kept = ~_repeats_previous(tables.user, tables.item)
    else:
        kept = np.ones(len(tables.user), bool)
    return tables.kept(kept), {"events": {"repeats": int((~kept).sum())}}, {}


def _seen_before(tables: _Tables) -> _Bools:
    """Return which events have the same user and item as an earlier one."""
    _, first = np.unique(tables.user * tables.items.height + tables.item, return_index=True)
    seen = np.ones(len(tables.user), bool)
    seen[first] = False
    return seen


def _repeats_previous(user: _Ints, value: _Times) -> _Bools:
    """Return which of sorted events have the user and value of the event before."""
    follows = np.zeros(len(user), bool)
    follows[1:] = (user[1:] == user[:-1]) & (value[1:] == value[:-1])
    return follows


def _drop_rare(tables: _Tables, options: PrepareOptions) -> _Outcome:
    """Drop users and items with too few events until all have enough.

    With the repeats rule `drop-consecutive` an item that goes can bring equal events together; those go as well.
    """
    left = np.arange(len(tables.user))
    users, items = np.ones(len(tables.users), bool), np.ones(tables.items.height, bool)
    dropped = {"of_dropped_users": 0, "of_dropped_items": 0, "repeats_brought_together": 0}

    def keep(kept: _Bools, reason: str) -> None:
        nonlocal left
        dropped[reason] += int((~kept).sum())
        left = left[kept]

    before = -1
    while before != len(left) + users.sum() + items.sum():
        before = len(left) + users.sum() + items.sum()
        users &= np.bincount(tables.user[left], minlength=len(users)) >= max(1, options.min_user_events)
        keep(users[tables.user[left]], "of_dropped_users")
        items &= np.bincount(tables.item[left], minlength=len(items)) >= options.min_item_events
        keep(items[tables.item[left]], "of_dropped_items")
        if options.repeats == "drop-consecutive":
            keep(~_repeats_previous(tables.user[left], tables.item[left]), "repeats_brought_together")
    if not len(left):
        raise InputError(
            f"options min_user_events {options.min_user_events} and min_item_events {options.min_item_events}: "
            "no event is left; lower them"
        )
    kept = np.zeros(len(tables.user), bool)
    kept[left] = True
    rare = {
        "users": {"below_min_user_events": int((~users).sum())},
        "items": {"below_min_item_events": int((~items).sum())},
        "events": dropped,
    }
    return tables.kept(kept, users, items), rare, {}


def _given(tables: _Tables) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Return the split that the source gives, and its rule."""
    assert tables.split is not None
    if not (tables.split == TEST).any():
        raise InputError(
            "the source gives a split without any test target that is left; check its test file and titles"
        )
    context = int((tables.split == CONTEXT).sum())
    return tables.split, {"rule": "given by the source", "events_in_histories_only": context}


def _leave_one_out(tables: _Tables, offsets: _Ints) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Return the split by each user's last two events, and its rule."""
    last = offsets[1:] - 1
    enough = np.diff(offsets) >= 3
    if not enough.any():
        raise InputError("option split: leave-one-out needs a user with 3 events or more, and there is none")
    split = np.full(len(tables.user), TRAIN, np.uint8)
    split[last[enough]] = TEST
    split[last[enough] - 1] = VALIDATION
    return split, {"rule": "leave-one-out", "users_below_3_events_in_train_only": int((~enough).sum())}


def _by_time(tables: _Tables, offsets: _Ints) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Return the split by two timestamps, next to 80 and 90 percent of the events, and its rule."""
    times = tables.timestamps
    if times is None:
        raise InputError(
            "option split: time needs timestamps, and none were read; use leave-one-out, or name timestamp_column"
        )
    ordered = np.sort(times)
    cuts = np.flatnonzero(np.diff(ordered)) + 1  # events before a possible cut
    if len(cuts) < 2:
        raise InputError(f"option split: time needs 3 different timestamps, and there are {len(cuts) + 1}")
    first, second = (int(np.abs(cuts - share * len(times)).argmin()) for share in (0.8, 0.9))
    if first == second:  # one timestamp holds a tenth of the events or more
        first, second = (first - 1, second) if first else (first, second + 1)
    validation_from, test_from = (ordered[cuts[cut]].item() for cut in (first, second))
    split = ((times >= validation_from).astype(np.uint8) + (times >= test_from)).astype(np.uint8)
    return split, {"rule": "time", "validation_from_timestamp": validation_from, "test_from_timestamp": test_from}


def _parts(tables: _Tables, split: npt.NDArray[np.uint8]) -> dict[str, dict[str, int]]:
    """Return events and users of each part of the split."""
    chosen = {name: split == part for part, name in enumerate(SPLITS)}
    return {
        name: {"events": int(mask.sum()), "users": len(np.unique(tables.user[mask]))} for name, mask in chosen.items()
    }


def _leakage(
    tables: _Tables, split: npt.NDArray[np.uint8], offsets: _Ints, duplicates: int | None
) -> dict[str, dict[str, int] | int | str | None]:
    """Return what a reader must know to judge an evaluation: where targets are easy, unlearnable or known too early."""
    trained = np.bincount(tables.item[split == TRAIN], minlength=tables.items.height) > 0
    starts = np.zeros(len(split), bool)
    starts[offsets[:-1]] = True

    def by_part(mask: _Bools) -> dict[str, int]:
        return {SPLITS[part]: int((mask & (split == part)).sum()) for part in (VALIDATION, TEST)}

    facts: dict[str, dict[str, int] | int | str | None] = {
        "core_counts": "all events, validation and test included",
        "targets_in_their_history": by_part(_seen_before(tables)),
        "targets_without_history": by_part(starts),
        "targets_never_trained_on": by_part(~trained[tables.item]),
        "events_equal_in_user_item_and_timestamp": duplicates,
    }
    times = tables.timestamps
    if times is not None:
        facts["targets_tied_with_the_event_before"] = by_part(_repeats_previous(tables.user, times))
        later = times[split == TRAIN] > times[split == TEST].min()
        facts["train_events_later_than_the_first_test_event"] = int(later.sum())
    return facts


_STEPS: dict[str, Callable[[_Tables, PrepareOptions], _Outcome]] = {
    "untitled": _drop_untitled,
    "same_title": _resolve_same_titles,
    "order": _order,
    "repeats": _drop_repeats,
    "core": _drop_rare,
}
