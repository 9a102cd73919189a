"""Splits against naive loops over a user's events."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.data import PROTOCOLS, SPLITS, Dataset, PrepareOptions, prepare
from cftrec.data.dataset import CONTEXT
from cftrec.errors import InputError

Event = tuple[str, str, int]
Row = tuple[str, tuple[str, ...], str]  # user, the last ten items, the next one
EVENTS = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdefg"), st.integers(0, 12)), max_size=60)


def day(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def prepared(tmp_path: Any, events: list[Event], titles: dict[str, str], **options: Any) -> Dataset:
    folder = tmp_path.mktemp("log")
    pl.DataFrame(events, schema=["user_id", "item_id", "time"], orient="row").write_csv(folder / "log.csv")
    pl.DataFrame(list(titles.items()), schema=["item_id", "title"], orient="row").write_csv(folder / "items.csv")
    chosen = PrepareOptions(items=str(folder / "items.csv"), timestamp_column="time", **options)
    return prepare(folder / "log.csv", "table", chosen)


def rows_of(data: Dataset) -> dict[str, list[Row]]:
    ids = data.items["item_id"].to_list()
    return {
        part: [
            (data.users[int(data.user_of(at))], tuple(ids[i] for i in data.history(at, 10)), ids[data.events[at]])
            for at in data.targets(part).tolist()
        ]
        for part in SPLITS
    }


def d3_by_loops(log: list[Event], titles: dict[str, str], core: int, least: int) -> tuple[list[list[Row]], int]:
    """Follow the description: window back in time, short titles, core over all events, rows by time."""
    last = datetime.fromtimestamp(max(time for *_, time in log), UTC)
    for years in range(1, 60):
        begin = datetime(last.year - years, last.month, 1, tzinfo=UTC).timestamp()
        left = [e for e in log if e[2] >= begin and titles.get(e[1]) and len(titles[e[1]].split(" ")) <= 20]
        while True:
            users, items = [e[0] for e in left], [e[1] for e in left]
            kept = [e for e in left if users.count(e[0]) >= core and items.count(e[1]) >= core]
            if len(kept) == len(left):
                break
            left = kept
        if len({item for _, item, _ in left}) >= least or all(time >= begin for *_, time in log):
            break
    sequences: dict[str, list[tuple[int, str]]] = {}
    for user, item, time in left:
        sequences.setdefault(user, []).append((time, item))
    rows = []
    for user, sequence in sequences.items():
        ordered = [item for _, item in sorted(sequence, key=lambda event: event[0])]
        times = sorted(time for time, _ in sequence)
        rows += [(times[n], (user, tuple(ordered[max(0, n - 10) : n]), ordered[n])) for n in range(1, len(ordered))]
    rows.sort(key=lambda row: row[0])
    cuts = [0, int(0.8 * len(rows)), int(0.9 * len(rows)), len(rows)]
    return [[row for _, row in rows[a:b]] for a, b in pairwise(cuts)], years


def test_d3_equals_its_description(tmp_path_factory: Any) -> None:
    """Eight users of three years: equal titles, a long one, an untitled item, rare items, days shared by all."""
    rng = np.random.default_rng(5)
    titles = {f"i{n}": f"Title {n % 12}" for n in range(16)}
    titles |= {"long": "word " * 20 + "end", "just": "word " * 19 + "end", "none": "", "rare": "Rare"}
    items = [*titles, "unlisted"]
    days = [day("2016-03-02"), day("2017-10-09"), day("2018-09-30")]
    log = [
        (f"u{rng.integers(8)}", items[rng.integers(len(items))], days[rng.integers(3)] + 86400 * int(rng.integers(4)))
        for _ in range(400)
    ]
    log += [("u9", "i1", days[2])] * 2 + [("u1", "rare", days[2])]
    log += [(f"u{n}", "year before", day("2017-01-05")) for n in range(6)]
    log += [(f"u{n}", "long ago", days[0]) for n in range(6)]
    titles |= {"year before": "Title 1", "long ago": "Old"}
    for least, years in ((18, 1), (19, 2), (20, 3), (99, 3)):
        expected, taken = d3_by_loops(log, titles, 5, least)
        data = prepared(tmp_path_factory, log, titles, protocol="d3", window_items=least)
        assert taken == years
        found = rows_of(data)
        assert [sorted(found[part]) for part in SPLITS] == [sorted(rows) for rows in expected]
        split = data.manifest["split"]
        assert split["rows"] == {part: len(rows) for part, rows in zip(SPLITS, expected, strict=True)}
        window = next(step for step in data.manifest["steps"] if step["step"] == "window")
        assert window["years"] == taken
        assert "just" in data.items["item_id"] and "long" not in data.items["item_id"]
    assert data.items["title"].is_duplicated().any()
    step = next(step for step in data.manifest["steps"] if step["step"] == "untitled")
    assert step["items"]["dropped"] == {"untitled": 2, "above_max_title_words": 1}


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.sampled_from([(0.1, 0.1), (0.25, 0.5)]))
def test_rows_equal_the_loop(tmp_path_factory: Any, events: list[Event], shares: tuple[float, float]) -> None:
    titles = {item: item for item in "abcdefg"}
    options = {"validation_share": shares[0], "test_share": shares[1]}
    try:
        data = prepared(tmp_path_factory, events, titles, split="rows", ties="source", **options)
    except InputError as error:
        users = [user for user, *_ in events]
        assert len(users) - len(set(users)) < 3 or "no event" in str(error)
        return
    rows, _ = d3_by_loops(events, titles, 1, 0)
    whole = [row for part in rows for row in part]
    cuts = [0, *(int(len(whole) * share) for share in (1 - shares[0] - shares[1], 1 - shares[1])), len(whole)]
    found = rows_of(data)
    assert [sorted(found[part]) for part in SPLITS] == [sorted(whole[a:b]) for a, b in pairwise(cuts)]
    for user in range(len(data.users)):
        codes = data.split[data.offsets[user] : data.offsets[user + 1]].tolist()
        assert codes[0] == (0 if codes[1:2] == [0] else CONTEXT)
        assert codes[1:] == sorted(codes[1:])


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.sampled_from(["items", "users"]))
def test_cold_start_equals_the_loop(tmp_path_factory: Any, events: list[Event], cold: str) -> None:
    titles = {item: item for item in "abcdefg"}
    dates = {"validation_from": "5", "test_from": "9"}
    try:
        data = prepared(tmp_path_factory, events, titles, split="cold-start", cold=cold, **dates)
    except InputError as error:
        assert any(word in str(error) for word in ("no event", "first seen after the cut", "holds no event"))
        return
    place = 1 if cold == "items" else 0
    trained = {event[place] for event in events if event[2] < 5}
    expected = []
    for user, item, time in events:
        code = int(time >= 5) + int(time >= 9)
        expected.append((user, item, time, CONTEXT if code and (user, item)[place] in trained else code))
    assert data.timestamps is not None
    ids = data.items["item_id"].to_list()
    users = [data.users[int(user)] for user in data.user_of(np.arange(len(data.events)))]
    found = zip(users, (ids[item] for item in data.events), data.timestamps.tolist(), data.split.tolist(), strict=True)
    assert sorted(found) == sorted(expected)
    context = sum(code == CONTEXT for *_, code in expected)
    assert data.manifest["split"]["events_in_histories_only"] == context


def test_dates_and_shares_cut_in_time(tmp_path_factory: Any) -> None:
    titles = {item: item for item in "abc"}
    events = [("u", "abc"[n % 3], day("2018-01-01") + 86400 * n) for n in range(100)]
    by_date = prepared(
        tmp_path_factory, events, titles, protocol="time", validation_from="2018-03-01", test_from="2018-04-01T12:00"
    )
    assert np.bincount(by_date.split).tolist() == [59, 32, 9]
    by_share = prepared(tmp_path_factory, events, titles, protocol="time", validation_share=0.2, test_share=0.3)
    assert np.bincount(by_share.split).tolist() == [50, 20, 30]
    with pytest.raises(InputError, match="no event is left for test; the log goes from"):
        prepared(tmp_path_factory, events, titles, split="time", validation_from="2018-03-01", test_from="2020-01-01")
    with pytest.raises(InputError, match="cold-start finds no items first seen after the cut"):
        prepared(tmp_path_factory, events, titles, split="cold-start")


def test_a_protocol_sets_options_that_stand_at_their_default() -> None:
    for protocol, options in PROTOCOLS.items():
        chosen = PrepareOptions(protocol=protocol)  # type: ignore[arg-type]
        assert {name: getattr(chosen, name) for name in options} == options
    assert PrepareOptions(protocol="d3", min_user_events=3).min_user_events == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "d4"}, "option protocol: unknown value 'd4'; known are leave-one-out, time, cold-start, d3"),
        ({"test_share": 0.2}, "option test_share: split leave-one-out makes no use of it, only rows, time, cold-start"),
        ({"cold": "users", "split": "time"}, "option cold: split time makes no use of it, only cold-start"),
        ({"split": "time", "test_from": "5"}, "go together, and without shares; give both"),
        ({"split": "rows", "test_from": "5", "validation_from": "4"}, "split rows makes no use of it"),
        ({"split": "time", "test_from": "5", "validation_from": "6"}, "test_from: 5 is not after validation_from 6"),
        ({"split": "time", "test_from": "May", "validation_from": "6"}, "'May' is neither a date like 2018-10-01"),
        ({"split": "time", "validation_share": 0.95}, "option validation_share: 0.95 leaves a part without events"),
        ({"memory": float("inf")}, "option memory: inf GiB is no size"),
        ({"memory": 0.0}, "option memory: 0.0 GiB is no size"),
    ],
)
def test_options_that_make_no_split(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        PrepareOptions(**options)
    assert message in str(caught.value)


def test_a_log_over_the_memory_is_refused(tmp_path_factory: Any) -> None:
    with pytest.raises(InputError, match=r"option memory: 3 events need about .* GiB, over 1e-07; raise it"):
        prepared(tmp_path_factory, [("u", "a", n) for n in range(3)], {"a": "A"}, memory=1e-7)


def test_a_row_split_is_cut_by_the_share_that_was_meant(tmp_path_factory: Any) -> None:
    """1 - .05 - .05 is a little less than .9 in binary."""
    events = [("u", item, n) for n, item in enumerate("ab" * 50 + "a")]
    options = {"validation_share": 0.05, "test_share": 0.05}
    data = prepared(tmp_path_factory, events, {"a": "A", "b": "B"}, split="rows", ties="source", **options)
    assert data.manifest["split"]["rows"] == {"train": 90, "validation": 5, "test": 5}
