"""The leakage section against loops over targets and their histories."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.data import Dataset, PrepareOptions, prepare
from cftrec.data.leakage import leakage
from cftrec.data.tables import Tables
from cftrec.errors import InputError

EVENTS = st.lists(
    st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcde"), st.integers(0, 9)), min_size=6, max_size=50
)


def by_loops(data: Dataset, log: list[tuple[str, str, int]], core: int) -> dict[str, Any]:
    times = data.timestamps
    assert times is not None
    trained = [at for at in range(len(data.events)) if data.split[at] == 0]
    items, users = [data.events[at] for at in trained], [int(data.user_of(at)) for at in trained]
    tests = {part: np.flatnonzero(data.split == code).tolist() for code, part in ((1, "validation"), (2, "test"))}

    def count(holds: Any) -> dict[str, int]:
        return {part: sum(bool(holds(at)) for at in targets) for part, targets in tests.items()}

    first = {part: min((times[at] for at in targets), default=None) for part, targets in tests.items()}
    before = {"train": (trained, "validation"), "validation": (tests["validation"], "test")}
    return {
        "core_counts": "all events, validation and test included" if core > 1 else "no core: one event is enough",
        "items_below_the_core_in_training": sum(items.count(item) < core for item in range(data.items.height)),
        "users_below_the_core_in_training": sum(users.count(user) < core for user in range(len(data.users))),
        "targets_in_their_history": count(lambda at: data.events[at] in data.history(at)),
        "targets_without_history": count(lambda at: not len(data.history(at))),
        "targets_never_trained_on": count(lambda at: data.events[at] not in items),
        "targets_of_users_never_trained_on": count(lambda at: int(data.user_of(at)) not in users),
        "events_equal_in_user_item_and_timestamp": len(log) - len(set(log)),
        "targets_tied_with_the_event_before": count(lambda at: len(data.history(at)) and times[at - 1] == times[at]),
        "targets_with_a_later_event_in_their_history": count(
            lambda at: len(data.history(at)) and times[at - len(data.history(at)) : at].max() > times[at]
        ),
        "train_events_later_than_the_first_test_event": sum(times[at] > first["test"] for at in trained),
        "events_with_the_timestamp_of_the_next_parts_first": {
            part: sum(times[at] == first[after] for at in positions)
            for part, (positions, after) in before.items()
            if first[after] is not None
        },
    }


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.sampled_from(["leave-one-out", "time", "cold-start", "rows"]), st.integers(1, 2))
def test_every_fact_equals_its_loop(log: list[tuple[str, str, int]], split: str, core: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        frame = pl.DataFrame(log, schema=["user_id", "item_id", "time"], orient="row")
        frame.with_columns(pl.col("item_id").alias("title")).write_csv(Path(folder, "log.csv"))
        options: dict[str, Any] = {"split": split, "min_item_events": core, "min_user_events": core}
        try:
            data = prepare(Path(folder, "log.csv"), "table", PrepareOptions(timestamp_column="time", **options))
        except InputError:
            return
    assert data.manifest["leakage"] == by_loops(data, log, core)
    assert data.manifest["leakage"]["targets_with_a_later_event_in_their_history"] == {"validation": 0, "test": 0}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=40))
def test_a_history_that_runs_backwards_is_found(events: list[tuple[int, int]]) -> None:
    """Only a source that gives its order can hold one."""
    user, times = np.array(sorted(events, key=lambda event: event[0])).T
    item, split = np.zeros(len(user), np.int32), np.full(len(user), 2, np.uint8)
    names, user = np.unique(user, return_inverse=True)
    tables = Tables(pl.Series(names), pl.DataFrame({"item_id": ["a"]}), user.astype(np.int32), item, times)
    late = sum(any(times[b] > times[a] for b in range(a) if user[b] == user[a]) for a in range(len(user)))
    facts = leakage(tables, split, tables.offsets(), PrepareOptions())
    assert facts["targets_with_a_later_event_in_their_history"] == {"validation": 0, "test": late}
    assert facts["events_equal_in_user_item_and_timestamp"] == len(events) - len(set(events))
