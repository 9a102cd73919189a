"""The steps of preparation, each of which says what it drops and why.

untitled -> same_title -> order -> repeats -> window -> core -> sample
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cftrec.data.options import PrepareOptions
from cftrec.data.sources.sheet import quoted
from cftrec.data.tables import Bools, Ints, Tables, Times, equal_events, repeats_previous, seen_before, user_parts
from cftrec.errors import InputError

Dropped = dict[str, dict[str, int]]  # users, items or events -> why -> how many
Outcome = tuple[Tables, Dropped, dict[str, Any]]  # what is left, what went, notes for the manifest

_EQUAL = "events_equal_to_an_earlier_one"  # a note of the order step


def drop_untitled(tables: Tables, options: PrepareOptions) -> Outcome:
    """Drop items without title or with too long a one, and their events."""
    title = pl.col("title").fill_null("")
    titled = tables.items.select(title != "").to_series().to_numpy()
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
    words = tables.items.select(title.str.count_matches(" ", literal=True) + 1).to_series().to_numpy()
    long = titled & (words > options.max_title_words) if options.max_title_words else np.zeros(len(titled), bool)
    items = {"untitled": int((~titled).sum())}
    events = {"of_untitled_items": int((~titled)[tables.item].sum())}
    if long.any():
        items["above_max_title_words"] = int(long.sum())
        events["of_items_above_max_title_words"] = int(long[tables.item].sum())
    stays = titled & ~long
    if not stays[tables.item].any():
        raise InputError(f"option max_title_words: no title has {options.max_title_words} words or fewer; raise it")
    notes = {"untitled_items_in_log": int(missing.sum())}
    return tables.kept(stays[tables.item], items=stays), {"items": items, "events": events}, notes


def resolve_same_titles(tables: Tables, options: PrepareOptions) -> Outcome:
    """Merge items with equal titles into the first of them, tell them apart by their item ids, or count them.

    Ids that read the same in a title, for they differ in white space only, tell nothing apart: the items' numbers do.
    """
    if options.same_title == "keep":
        return tables, {}, {"items_with_a_title_of_another": int(tables.items["title"].is_duplicated().sum())}
    if options.same_title == "distinguish":
        items, renamed = tables.items, pl.repeat(False, tables.items.height, eager=True)
        while (same := items["title"].is_duplicated()).any():  # again, for a title may read "X [7]" from the start
            renamed |= same
            by_id = pl.format("{} [{}]", "title", pl.col("item_id").str.replace_all(r"\s+", " "))
            by_number = pl.format("{} [{}]", "title", pl.int_range(1, pl.len() + 1))
            named = pl.when(by_id.is_duplicated()).then(by_number).otherwise(by_id)
            items = items.with_columns(pl.when(same).then(named).otherwise("title").alias("title"))
        return replace(tables, items=items), {}, {"renamed_items": int(renamed.sum())}
    rows = tables.items.select("title").with_row_index("row")
    first = rows.select(pl.col("row").min().over("title")).to_series().to_numpy().astype(np.int32)
    stays = first == np.arange(len(first))
    moved = int((~stays[tables.item]).sum())
    if stays.all():
        return tables, {"items": {"same_title": 0}}, {"events_moved_to_the_first_item": 0}
    merged = replace(tables, item=first[tables.item]).kept(np.ones(len(tables.item), bool), items=stays)
    return merged, {"items": {"same_title": int((~stays).sum())}}, {"events_moved_to_the_first_item": moved}


def order(tables: Tables, options: PrepareOptions) -> Outcome:
    """Sort events by user and time; within equal timestamps by a seeded shuffle, for rows are in no order there."""
    user, times = tables.user, tables.timestamps
    if times is None or tables.split is not None:
        place = np.argsort(user, kind="stable")
        ordered = _gathered(tables, place)
        equal = {} if ordered.timestamps is None else {_EQUAL: equal_events(ordered, np.ones(len(user), bool))}
        return ordered, {}, {"rule": "the order of the source"} | equal
    rule = "by timestamp, equal ones of a user in a seeded shuffle"
    among_ties = np.random.default_rng(options.seed).permutation(len(user))
    if options.ties == "source":
        rule = "by timestamp, equal ones of a user in the order of the source"
        among_ties = np.arange(len(user))
    offsets = tables.offsets()
    place = np.empty(len(user), np.int64)
    for start, stop in user_parts(offsets, options):
        whole = stop - start == len(tables.users)
        rows = np.arange(len(user)) if whole else np.flatnonzero((user >= start) & (user < stop))
        place[offsets[start] : offsets[stop]] = rows[_by_user_and_time(user[rows], times[rows], among_ties[rows])]
    ordered = _gathered(tables, place)
    assert ordered.timestamps is not None
    same = repeats_previous(ordered.user, ordered.timestamps)
    tied = same | np.append(same[1:], False)
    notes = {"rule": rule, "tied_events": int(tied.sum()), "tied_share": int(tied.sum()) / len(user)}
    return ordered, {}, notes | {_EQUAL: equal_events(ordered, tied)}


def _by_user_and_time(user: npt.NDArray[np.int32], times: Times, among_ties: Ints) -> Ints:
    """Return the order by user, time and `among_ties`; one sort of whole numbers where user and time make one."""
    first, span = times.min(), int(times.max()) - int(times.min()) + 1
    lowest = int(user.min())
    if times.dtype == np.int64 and (int(user.max()) - lowest + 1) * span < 2**63:
        key = (user - lowest).astype(np.int64) * span + (times - first)
        place = np.argsort(key)
        key = key[place]
        same = np.append(False, key[1:] == key[:-1])
    else:
        place = np.lexsort((times, user))
        same = repeats_previous(user[place], times[place])
    tied = np.flatnonzero(same | np.append(same[1:], False))
    group = np.cumsum(~same)[tied]
    place[tied] = place[tied][np.lexsort((among_ties[place[tied]], group))]
    return place


def _gathered(tables: Tables, place: Ints) -> Tables:
    """Return the events in another order, each with its place in the source."""
    return replace(
        tables,
        user=tables.user[place],
        item=tables.item[place],
        timestamps=None if tables.timestamps is None else tables.timestamps[place],
        split=None if tables.split is None else tables.split[place],
        row=place,
    )


def drop_repeats(tables: Tables, options: PrepareOptions) -> Outcome:
    """Drop a user's repeated items by the rule of the options; events are sorted."""
    if options.repeats == "first":
        kept = ~seen_before(tables, options)
    elif options.repeats == "drop-consecutive":
        kept = ~repeats_previous(tables.user, tables.item)
    else:
        kept = np.ones(len(tables.user), bool)
    return tables.kept(kept), {"events": {"repeats": int((~kept).sum())}}, {}


def drop_before_window(tables: Tables, options: PrepareOptions) -> Outcome:
    """Drop what is older than the window, which grows back in time until the core leaves enough items."""
    if not options.window_items:
        return tables, {}, {}
    if tables.timestamps is None:
        raise InputError("option window_items: there are no timestamps; name timestamp_column or leave the option out")
    try:
        last = datetime.fromtimestamp(float(tables.timestamps.max()), UTC)
        datetime(last.year - 1, 1, 1)
    except (ValueError, OverflowError, OSError) as error:
        latest = tables.timestamps.max()
        raise InputError(f"option window_items: the last timestamp, {latest}, is no time in seconds") from error
    for years in range(1, last.year):
        begin = datetime(last.year - years, last.month, 1, tzinfo=UTC).timestamp()
        kept = tables.timestamps >= begin
        items = int(_core(tables, options, np.flatnonzero(kept)).items.sum())
        if items >= options.window_items or kept.all():
            break
    notes = {"from_timestamp": begin, "years": years, "items_left_by_the_core": items}
    return tables.kept(kept), {"events": {"before_the_window": int((~kept).sum())}}, notes


def drop_rare(tables: Tables, options: PrepareOptions) -> Outcome:
    """Drop users and items with too few events until all have enough."""
    core = _core(tables, options, np.arange(len(tables.user)))
    if not len(core.events):
        raise InputError(
            f"options min_user_events {options.min_user_events} and min_item_events {options.min_item_events}: "
            "no event is left; lower them"
        )
    kept = np.zeros(len(tables.user), bool)
    kept[core.events] = True
    rare = {
        "users": {"below_min_user_events": int((~core.users).sum())},
        "items": {"below_min_item_events": int((~core.items).sum())},
        "events": core.dropped,
    }
    return tables.kept(kept, core.users, core.items), rare, {}


@dataclass(frozen=True, eq=False)
class _Core:
    events: Ints  # [kept] positions
    users: Bools  # [U] which stay
    items: Bools  # [I] which stay
    dropped: dict[str, int]  # events by reason


def _core(tables: Tables, options: PrepareOptions, left: Ints) -> _Core:
    """Return what of some events has enough, counted again until nothing changes.

    With the repeats rule `drop-consecutive` an item that goes can bring equal events together; those go as well.
    """
    users, items = np.ones(len(tables.users), bool), np.ones(tables.items.height, bool)
    user, item = tables.user[left], tables.item[left]
    dropped = {"of_dropped_users": 0, "of_dropped_items": 0, "repeats_brought_together": 0}

    def keep(kept: Bools, reason: str) -> None:
        nonlocal left, user, item
        if not kept.all():
            dropped[reason] += int((~kept).sum())
            left, user, item = left[kept], user[kept], item[kept]

    before = -1
    while before != len(left) + users.sum() + items.sum():
        before = len(left) + users.sum() + items.sum()
        users &= np.bincount(user, minlength=len(users)) >= max(1, options.min_user_events)
        keep(users[user], "of_dropped_users")
        items &= np.bincount(item, minlength=len(items)) >= options.min_item_events
        keep(items[item], "of_dropped_items")
        if options.repeats == "drop-consecutive":
            keep(~repeats_previous(user, item), "repeats_brought_together")
    return _Core(left, users, items, dropped)


def sample_users(tables: Tables, options: PrepareOptions) -> Outcome:
    """Keep a random part of the users; all items stay, for they are what is recommended."""
    if not options.sample_users:
        return tables, {}, {}
    count = len(tables.users)
    if options.sample_users > count:
        raise InputError(f"option sample_users: {options.sample_users} is more than the {count} users left; lower it")
    drawn = np.random.default_rng(options.seed).choice(count, options.sample_users, replace=False)
    stays = np.zeros(count, bool)
    stays[drawn] = True
    kept = stays[tables.user]
    gone = {"users": {"not_sampled": int((~stays).sum())}, "events": {"of_users_not_sampled": int((~kept).sum())}}
    return tables.kept(kept, users=stays), gone, {}


STEPS: dict[str, Callable[[Tables, PrepareOptions], Outcome]] = {
    "untitled": drop_untitled,
    "same_title": resolve_same_titles,
    "order": order,
    "repeats": drop_repeats,
    "window": drop_before_window,
    "core": drop_rare,
    "sample": sample_users,
}
