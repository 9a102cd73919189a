"""The manifest's leakage section: where targets are easy, unlearnable or known too early."""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cftrec.data.dataset import SPLITS, TEST, TRAIN, VALIDATION
from cftrec.data.options import PrepareOptions
from cftrec.data.split import Split
from cftrec.data.tables import Bools, Ints, Tables, Times, equal_events, repeats_previous, seen_before

_COUNTED = "all events, validation and test included"


def leakage(tables: Tables, split: Split, offsets: Ints, options: PrepareOptions) -> dict[str, Any]:
    """Return what a reader must know to judge an evaluation; {"validation": .., "test": ..} where it is about targets.

    Args:
        tables: the events in order.
        split: their codes.
        offsets: where each user's events begin.
        options: those of the preparation.
    """
    training = split == TRAIN
    trained_items = np.bincount(tables.item[training], minlength=tables.items.height)
    trained_users = np.bincount(tables.user[training], minlength=len(tables.users))
    starts = np.zeros(len(split), bool)
    starts[offsets[:-1]] = True

    def by_part(mask: Bools) -> dict[str, int]:
        return {SPLITS[part]: int((mask & (split == part)).sum()) for part in (VALIDATION, TEST)}

    cored = max(options.min_user_events, options.min_item_events) > 1
    facts: dict[str, Any] = {
        "core_counts": _COUNTED if cored else "no core: one event is enough",
        "items_below_the_core_in_training": int((trained_items < options.min_item_events).sum()),
        "users_below_the_core_in_training": int((trained_users < options.min_user_events).sum()),
        "targets_in_their_history": by_part(seen_before(tables, options)),
        "targets_without_history": by_part(starts),
        "targets_never_trained_on": by_part(trained_items[tables.item] == 0),
        "targets_of_users_never_trained_on": by_part(trained_users[tables.user] == 0),
        "events_equal_in_user_item_and_timestamp": None,
    }
    times = tables.timestamps
    if times is not None:
        facts["events_equal_in_user_item_and_timestamp"] = _equal(tables, times)
        facts["targets_tied_with_the_event_before"] = by_part(repeats_previous(tables.user, times))
        facts["targets_with_a_later_event_in_their_history"] = by_part(_after_a_later_one(tables.user, times))
        later = times[training] > times[split == TEST].min()
        facts["train_events_later_than_the_first_test_event"] = int(later.sum())
        facts["events_with_the_timestamp_of_the_next_parts_first"] = _tied_at_the_cuts(times, split)
    return facts


def _equal(tables: Tables, times: Times) -> int:
    """Return how many events equal another of their user in item and timestamp."""
    tied = repeats_previous(tables.user, times)
    tied |= np.append(tied[1:], False)
    if _after_a_later_one(tables.user, times).any():  # equal ones need not be neighbours
        tied[:] = True
    return equal_events(tables, tied)


def _after_a_later_one(user: npt.NDArray[np.int32], times: Times) -> Bools:
    """Return which events have one with a later timestamp before them, in the order of their user."""
    late = np.zeros(len(user), bool)
    late[1:] = (user[1:] == user[:-1]) & (times[1:] < times[:-1])
    if late.any():  # only where a source gives the order
        latest = pl.DataFrame({"user": user, "time": times}).select(pl.col("time").cum_max().over("user")).to_series()
        late = latest.to_numpy() > times
    return late


def _tied_at_the_cuts(times: Times, split: Split) -> dict[str, int]:
    """Return how many events of a part have the first timestamp of the part that comes next."""
    pairs = [(part, after) for part, after in ((TRAIN, VALIDATION), (VALIDATION, TEST)) if (split == after).any()]
    return {SPLITS[part]: int((times[split == part] == times[split == after].min()).sum()) for part, after in pairs}
