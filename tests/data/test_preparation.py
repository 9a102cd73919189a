"""Preparation against naive loops: what is dropped is accounted for, and no target knows its future."""

import tempfile
import time
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hand_written import TITLES
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.data import SPLITS, Dataset, PrepareOptions, prepare
from cftrec.errors import InputError

Event = tuple[str, str, int]
ANY_EVENTS = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdefg"), st.integers(0, 12)), min_size=1, max_size=60
)
# Events that most options leave something of: a few users who share items, whatever else is drawn.
SHARED = [(user, item, 3 * place) for user in "uvw" for place, item in enumerate("abdba")]
EVENTS = ANY_EVENTS.flatmap(lambda events: st.permutations(SHARED + events))
TITLE = {"a": "A", "b": "B", "c": "A", "d": "D", "e": "", "f": "F [f]", "g": "G"}
OPTIONS = st.fixed_dictionaries(
    {
        "max_untitled": st.just(1.0),
        "max_title_words": st.integers(0, 2),
        "same_title": st.sampled_from(["merge", "distinguish", "keep"]),
        "repeats": st.sampled_from(["keep", "first", "drop-consecutive"]),
        "ties": st.sampled_from(["shuffle", "source"]),
        "window_items": st.integers(0, 3),
        "min_user_events": st.integers(0, 4),
        "min_item_events": st.integers(0, 4),
        "sample_users": st.integers(0, 4),
        "split": st.sampled_from(["leave-one-out", "time", "cold-start", "rows"]),
        "seed": st.integers(0, 3),
        "memory": st.sampled_from([4.0, 2e-5]),  # of some 20 KB, a part holds about 40 events
    }
)


def prepared(events: list[Event], *, timed: bool = True, titles: dict[str, str] = TITLE, **options: Any) -> Dataset:
    """Prepare events that are written as a table, an item table beside it."""
    with tempfile.TemporaryDirectory() as folder:
        log, items = Path(folder, "log.csv"), Path(folder, "items.csv")
        pl.DataFrame(events, schema=["user_id", "item_id", "time"], orient="row").write_csv(log)
        pl.DataFrame(list(titles.items()), schema=["item_id", "title"], orient="row").write_csv(items)
        time_column = "time" if timed else None
        return prepare(log, "table", PrepareOptions(items=str(items), timestamp_column=time_column, **options))


def sequences(dataset: Dataset) -> dict[str, list[str]]:
    ids = dataset.items["item_id"].to_list()
    bounds = pairwise(dataset.offsets.tolist())
    return {
        user: [ids[i] for i in dataset.events[start:end]]
        for user, (start, end) in zip(dataset.users, bounds, strict=True)
    }


# accounting


@settings(max_examples=60, deadline=None)
@given(EVENTS, OPTIONS, st.booleans())
def test_every_step_accounts_for_all_it_drops(events: list[Event], options: dict[str, Any], timed: bool) -> None:
    try:
        dataset = prepared(events, timed=timed, **options)
    except InputError as error:
        assert "\n" not in str(error)
        return
    steps = dataset.manifest["steps"]
    names = ["read", "untitled", "same_title", "order", "repeats", "window", "core", "sample"]
    assert [step["step"] for step in steps] == names
    for what in ("users", "items", "events"):
        for step in steps:
            assert step[what]["in"] == step[what]["kept"] + sum(step[what]["dropped"].values())
        assert all(a[what]["kept"] == b[what]["in"] for a, b in pairwise(steps))
        assert steps[-1][what]["kept"] == dataset.manifest["counts"][what]
    assert steps[0]["events"]["in"] == len(events) == dataset.manifest["source"]["log_rows"]["kept"]
    assert dataset.manifest["counts"] == {
        "users": len(dataset.users),
        "items": dataset.items.height,
        "events": len(dataset.events),
    }
    parts = dataset.manifest["split"]["parts"]
    assert {name: part["events"] for name, part in parts.items()} == {
        name: int((dataset.split == code).sum()) for code, name in enumerate(SPLITS)
    }
    assert dataset.items["title"].is_unique().all() or options["same_title"] == "keep"
    assert (np.diff(dataset.offsets) > 0).all()


@settings(max_examples=60, deadline=None)
@given(ANY_EVENTS | EVENTS, st.integers(0, 6), st.integers(0, 6))
def test_core_equals_the_naive_loop(events: list[Event], min_user: int, min_item: int) -> None:
    titles = {item: item for item in "abcdefg"}
    left = list(events)
    while True:
        users, items = Counter(e[0] for e in left), Counter(e[1] for e in left)
        kept = [e for e in left if users[e[0]] >= min_user and items[e[1]] >= min_item]
        if len(kept) == len(left):
            break
        left = kept
    options = {"min_user_events": min_user, "min_item_events": min_item, "split": "leave-one-out"}
    try:
        dataset = prepared(events, timed=False, titles=titles, **options)
    except InputError as error:
        longest = max(Counter(e[0] for e in left).values(), default=0)
        assert longest < 3 and ("no event is left" in str(error)) == (longest == 0)
        return
    expected: dict[str, list[str]] = {}
    for user, item, _ in left:
        expected.setdefault(user, []).append(item)
    assert sequences(dataset) == expected
    assert list(sequences(dataset)) == list(dict.fromkeys(u for u, _, _ in events if u in expected))
    in_log = {e[1] for e in left}
    assert dataset.items["item_id"].to_list() == [i for i in titles if i in in_log or min_item == 0]


def test_core_that_leaves_nothing_names_the_options() -> None:
    with pytest.raises(InputError, match=r"min_user_events 9 and min_item_events 1: no event is left; lower them"):
        prepared([("u", "a", 1), ("u", "b", 2), ("u", "d", 3)], min_user_events=9)


def test_users_who_lose_all_their_events_go_whatever_the_options() -> None:
    events = [("lost", "e", 0), *(("u", item, 0) for item in "abd")]
    dataset = prepared(events, timed=False, max_untitled=0.5, min_user_events=0)
    assert dataset.users.to_list() == ["u"]
    assert dataset.manifest["steps"][6]["users"] == {"in": 2, "kept": 1, "dropped": {"below_min_user_events": 1}}


@pytest.mark.parametrize("repeats", ["keep", "first"])
def test_a_part_of_users_who_lost_all_their_events_is_passed_over(repeats: str) -> None:
    events = [(user, "abdg"[n % 4], n) for user in "uw" for n in range(30)]
    dataset = prepared([*events[:30], ("v", "e", 0), *events[30:]], max_untitled=0.5, memory=5e-6, repeats=repeats)
    assert dataset.users.to_list() == ["u", "w"] and len(dataset.events) == (60 if repeats == "keep" else 8)


def test_a_sample_of_users_keeps_all_their_events_and_all_items() -> None:
    events = [(user, item, 0) for user in "uvwxyz" for item in "abd"]
    whole = prepared(events, timed=False)
    dataset = prepared(events, timed=False, sample_users=2)
    kept = sequences(dataset)
    assert len(kept) == 2 and kept.items() <= sequences(whole).items()
    assert dataset.items.equals(whole.items)
    step = dataset.manifest["steps"][-1]
    assert step["users"]["dropped"] == {"not_sampled": 4}
    assert step["events"]["dropped"] == {"of_users_not_sampled": 12}
    drawn = {frozenset(sequences(prepared(events, timed=False, sample_users=2, seed=seed))) for seed in range(8)}
    assert len(drawn) > 1 and frozenset(kept) in drawn
    with pytest.raises(InputError, match=r"option sample_users: 7 is more than the 6 users left; lower it"):
        prepared(events, timed=False, sample_users=7)


# titles


def test_untitled_items_are_dropped_and_counted_up_to_the_share() -> None:
    titles = dict.fromkeys("abcdefghi", "") | {item: item.upper() for item in "abcdefgh"}
    events = [("u", item, 0) for item in "abcdefghi"] + [("u", "unlisted", 0)]
    dataset = prepared(events, timed=False, titles=titles, max_untitled=0.2)
    assert sequences(dataset) == {"u": list("abcdefgh")}
    step = dataset.manifest["steps"][1]
    assert step["items"] == {"in": 10, "kept": 8, "dropped": {"untitled": 2}}
    assert step["events"]["dropped"] == {"of_untitled_items": 2} and step["untitled_items_in_log"] == 2
    with pytest.raises(InputError, match=r"option max_untitled: 2 of the log's 10 items .* item 'i'\), over .* 0.19;"):
        prepared(events, timed=False, titles=titles, max_untitled=0.19)
    with pytest.raises(InputError, match="no item of the log has a title; check that its item ids"):
        prepared([("u", "x", 0)], timed=False, titles=titles, max_untitled=1.0)


def test_same_titles_are_merged_into_the_first() -> None:
    events = [("u", item, 0) for item in "gcbad"]
    dataset = prepared(events, timed=False)
    assert sequences(dataset) == {"u": list("gabad")}
    step = dataset.manifest["steps"][2]
    assert step["items"]["dropped"] == {"same_title": 1} and step["events_moved_to_the_first_item"] == 1
    assert dataset.manifest["leakage"]["targets_in_their_history"] == {"validation": 1, "test": 0}


def test_same_titles_are_distinguished_by_their_ids() -> None:
    titles = {"5": "X", "6": "X", "7": "X [5]", "8": "Y"}
    events = [("u", item, 0) for item in "8765"]
    dataset = prepared(events, timed=False, titles=titles, same_title="distinguish")
    assert dataset.items["title"].to_list() == ["X [5] [5]", "X [6]", "X [5] [7]", "Y"]
    assert sequences(dataset) == {"u": list("8765")}
    assert dataset.manifest["steps"][2]["renamed_items"] == 3


def test_an_id_brings_no_line_break_into_a_title() -> None:
    titles = {"5": "X", "6\n7": "X", "8": "Y"}
    dataset = prepared([("u", item, 0) for item in titles], timed=False, titles=titles, same_title="distinguish")
    assert dataset.items["title"].to_list() == ["X [5]", "X [6 7]", "Y"]


def test_ids_that_differ_in_white_space_only_give_way_to_numbers() -> None:
    titles = {"a b": "X", "c": "X", "a  b": "X", "2": "X [3]", "d": "Y"}
    dataset = prepared([("u", item, 0) for item in titles], timed=False, titles=titles, same_title="distinguish")
    assert dataset.items["title"].to_list() == ["X [1]", "X [c]", "X [3] [a b]", "X [3] [2]", "Y"]


@pytest.mark.parametrize("same_title", ["merge", "distinguish", "keep"])
def test_an_item_table_may_have_any_columns(tmp_path: Path, same_title: str) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id\n" + "".join(f"u,{item}\n" for item in "abcd"))
    (tmp_path / "items.csv").write_text("item_id,title,row,index,user\na,A,1,x,y\nb,B,2,x,y\nc,A,3,x,y\nd,D,4,x,y\n")
    options = PrepareOptions(items=str(tmp_path / "items.csv"), same_title=same_title)
    dataset = prepare(tmp_path / "log.csv", "table", options)
    assert dataset.items["row"].to_list() == (["1", "2", "4"] if same_title == "merge" else ["1", "2", "3", "4"])


def test_decimals_are_numbers_with_fractions(tmp_path: Path) -> None:
    rows = {"user_id": [10.0] * 4, "item_id": [1.0, 2.0, 3.0, 4.0], "time": [100.9, 100.5, 100.1, 100.0]}
    (tmp_path / "items.csv").write_text("item_id,title\n1,A\n2,B\n3,C\n4,D\n")
    made = {}
    for name, kind in {"floats": pl.Float64, "decimals": pl.Decimal(12, 2)}.items():
        pl.DataFrame(rows).cast(kind).write_parquet(tmp_path / f"{name}.parquet")
        options = PrepareOptions(items=str(tmp_path / "items.csv"), timestamp_column="time", ties="source")
        made[name] = prepare(tmp_path / f"{name}.parquet", "table", options)
        assert sequences(made[name]) == {"10": ["4", "3", "2", "1"]}
        assert made[name].items["title"].to_list() == list("ABCD")


@pytest.mark.parametrize("header", ["\nz,user_id,item_id,title,title\n", '"a\nb",user_id,item_id,title,title\n'])
def test_two_columns_of_one_name_are_found_wherever_the_header_stands(tmp_path: Path, header: str) -> None:
    (tmp_path / "log.csv").write_text(header + "1,u,a,A,Z\n" * 3)
    with pytest.raises(InputError, match="two columns are called 'title'"):
        prepare(tmp_path / "log.csv", "table", PrepareOptions())


def test_titles_are_cleaned_before_they_are_compared_and_joined_with_years(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id\nu,a\nu,b\nu,c\nu,d\n")
    (tmp_path / "items.csv").write_text(
        "item_id,title,year,brand\na,Ys &amp;amp; I,1987,N\u00a0&amp; C\nb,Ys  & I (1987),,\n"
        "c,Ys & I,1988,\nd,&nbsp;,1990,\n"
    )
    options = PrepareOptions(items=str(tmp_path / "items.csv"), max_untitled=0.5)
    dataset = prepare(tmp_path / "log.csv", "table", options)
    assert dataset.items["title"].to_list() == ["Ys & I (1987)", "Ys & I (1988)"]
    assert dataset.items["brand"].to_list() == ["N & C", ""]
    options = PrepareOptions(items=str(tmp_path / "items.csv"), max_untitled=0.5, join_year=False)
    assert prepare(tmp_path / "log.csv", "table", options).items["title"].to_list() == ["Ys & I", "Ys & I (1987)"]
    assert dataset.manifest["options"]["items"] == "items.csv"


# repeats


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_repeat_rules(events: list[Event]) -> None:
    events = [*events, ("long", "a", 0), ("long", "b", 0), ("long", "d", 0)]
    titles = {item: item for item in "abcdefg"}
    every: dict[str, list[str]] = {}
    for user, item, _ in events:
        every.setdefault(user, []).append(item)
    first = {user: list(dict.fromkeys(items)) for user, items in every.items()}
    apart = {user: [b for a, b in pairwise(["", *items]) if a != b] for user, items in every.items()}
    for rule, expected in (("keep", every), ("first", first), ("drop-consecutive", apart)):
        assert sequences(prepared(events, timed=False, titles=titles, repeats=rule)) == expected


def test_repeats_that_the_core_brings_together_go_as_well() -> None:
    events = [("u", item, 0) for item in "abada"] + [("v", item, 0) for item in "ada"]
    dataset = prepared(events, timed=False, repeats="drop-consecutive", min_item_events=2)
    assert sequences(dataset) == {"u": list("ada"), "v": list("ada")}
    dropped = dataset.manifest["steps"][6]["events"]["dropped"]
    assert dropped == {"of_dropped_users": 0, "of_dropped_items": 1, "repeats_brought_together": 1}


# order


def test_events_are_in_time_order_and_ties_in_a_seeded_shuffle() -> None:
    items = {chr(ord("a") + i): str(i) for i in range(20)}
    events = [("u", item, 5) for item in items] + [("v", "a", 9), ("v", "b", 3), ("v", "c", 3), ("v", "d", 9)]
    by_seed = [sequences(prepared(events, titles=items, seed=seed)) for seed in (0, 0, 1)]
    assert by_seed[0] == by_seed[1] and by_seed[0]["u"] != by_seed[2]["u"]
    for order in by_seed:
        assert sorted(order["u"]) == list(items) and order["u"] != list(items)
        assert set(order["v"][:2]) == {"b", "c"} and set(order["v"][2:]) == {"a", "d"}
    step = prepared(events, titles=items).manifest["steps"][3]
    assert step["tied_events"] == 24 and step["tied_share"] == 1.0
    untied = prepared([*events, ("v", "e", 4)], titles=items).manifest["steps"][3]
    assert untied["tied_events"] == 24 and untied["tied_share"] == 24 / 25


def test_a_source_in_order_keeps_its_order() -> None:
    events = [("v", "d", 0), ("u", "b", 0), ("v", "a", 0), ("u", "a", 0), ("v", "b", 0)]
    dataset = prepared(events, timed=False)
    assert sequences(dataset) == {"v": list("dab"), "u": list("ba")}
    assert dataset.timestamps is None and dataset.items["item_id"].to_list() == ["a", "b", "d"]


def test_equal_rows_are_kept_and_counted() -> None:
    events = [("u", "a", 1), ("u", "a", 1), ("u", "a", 2), ("u", "b", 3), ("u", "a", 1)]
    dataset = prepared(events)
    assert len(dataset.events) == 5
    assert dataset.manifest["leakage"]["events_equal_in_user_item_and_timestamp"] == 2


# split


@settings(max_examples=60, deadline=None)
@given(ANY_EVENTS | EVENTS, st.sampled_from(["leave-one-out", "time"]), st.integers(0, 3))
def test_no_target_knows_its_future(events: list[Event], split: str, seed: int) -> None:
    try:
        dataset = prepared(events, split=split, seed=seed, max_untitled=1.0)
    except InputError as error:
        assert "option split" in str(error) or "has a title" in str(error)
        return
    times = dataset.timestamps
    assert times is not None
    for name in SPLITS:
        for position in dataset.targets(name).tolist():
            user = int(dataset.user_of(position))
            start = int(dataset.offsets[user])
            assert len(dataset.history(position)) == position - start
            assert (times[start:position] <= times[position]).all()
            assert (dataset.split[start:position] <= dataset.split[position]).all()
    facts = dataset.manifest["split"]
    if split == "time":
        train, validation, test = (times[dataset.split == part] for part in range(3))
        assert train.max() < validation.min() == facts["validation_from_timestamp"]
        assert validation.max() < test.min() == facts["test_from_timestamp"]
        assert dataset.manifest["leakage"]["train_events_later_than_the_first_test_event"] == 0
    else:
        lengths = np.diff(dataset.offsets)
        assert facts["users_below_3_events_in_train_only"] == (lengths < 3).sum()
        for length, start in zip(lengths, dataset.offsets, strict=False):
            expected = [0] * length if length < 3 else [0] * (length - 2) + [1, 2]
            assert dataset.split[start : start + length].tolist() == expected


def test_time_split_is_80_10_10_and_ties_move_its_cuts() -> None:
    distinct = [("u", "a", time) for time in range(100)]
    facts = prepared(distinct, split="time").manifest["split"]
    assert {name: part["events"] for name, part in facts["parts"].items()} == {
        "train": 80,
        "validation": 10,
        "test": 10,
    }
    assert facts["validation_from_timestamp"] == 80 and facts["test_from_timestamp"] == 90
    tied = [("u", "a", min(time // 15, 5)) for time in range(100)]  # 15 events a timestamp, the last has 25
    parts = prepared(tied, split="time").manifest["split"]["parts"]
    assert [part["events"] for part in parts.values()] == [60, 15, 25]


def test_time_split_counts_targets_without_history() -> None:
    events = [("u", "a", time) for time in range(8)] + [("v", "b", 8), ("v", "b", 9)]
    leakage = prepared(events, split="time").manifest["leakage"]
    assert leakage["targets_without_history"] == {"validation": 1, "test": 0}
    assert leakage["targets_never_trained_on"] == {"validation": 1, "test": 1}
    assert leakage["targets_in_their_history"] == {"validation": 0, "test": 1}


def test_splits_that_cannot_be_made_say_why() -> None:
    events = [("u", "a", 1), ("u", "b", 1), ("v", "a", 2)]
    with pytest.raises(InputError, match="option split: leave-one-out needs a user with 3 events or more"):
        prepared(events)
    with pytest.raises(InputError, match="option split: time needs 3 different timestamps, and there are 2"):
        prepared(events, split="time")
    with pytest.raises(InputError, match="option split: time needs timestamps, and none were read"):
        prepared(events, split="time", timed=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "random"}, "option split: unknown value 'random'; known are leave-one-out, time, cold-start, rows"),
        ({"repeats": "none"}, "option repeats: unknown value 'none'; known are keep, first, drop-consecutive"),
        ({"same_title": "drop"}, "option same_title: unknown value 'drop'; known are merge, distinguish, keep"),
        ({"min_user_events": -1}, "option min_user_events: -1 is below 0; give 0 or more"),
        ({"seed": -1}, "option seed: -1 is below 0; give 0 or more"),
        ({"max_untitled": 1.5}, "option max_untitled: 1.5 is no share; give 0 to 1"),
        ({"max_untitled": float("nan")}, "option max_untitled: nan is no share; give 0 to 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        PrepareOptions(**options)
    assert str(caught.value) == message


# real logs


def test_movielens_100k(installed: str) -> None:
    dataset = prepare(installed, "movielens")
    counts = dataset.manifest["counts"]
    assert counts == {"users": 943, "items": 1664, "events": 100_000}
    assert dataset.manifest["steps"][2]["items"]["dropped"] == {"same_title": 18}
    titles = dataset.items["title"].to_list()
    for title in (
        "Star Wars (1977)",
        "Empire Strikes Back, The (1980)",
        "Chasing Amy (1997)",
        "Misérables, Les (1995)",
    ):
        assert title in titles
    assert 0.75 < dataset.manifest["steps"][3]["tied_share"] < 0.76
    assert len(dataset.targets("test")) == len(dataset.targets("validation")) == 943
    by_time = prepare(installed, "movielens", PrepareOptions(split="time")).manifest["split"]
    assert by_time["parts"]["test"] == {"events": 10_000, "users": 166}


def test_amazon_games_is_whole_and_quick(games: Path, tmp_path: Path) -> None:
    start = time.perf_counter()
    dataset = prepare(games, "recbole", PrepareOptions(split="leave-one-out"))
    dataset.save(tmp_path / "games")
    assert time.perf_counter() - start < 20  # seconds; about half a second on two idle cores
    assert dataset.manifest["counts"] == {"users": 50_546, "items": 16_403, "events": 440_264}
    # 455 titles repeat where blanks are compared as written; a no-break space hides one more.
    assert dataset.manifest["steps"][2]["items"]["dropped"] == {"same_title": 456}
    assert dataset.manifest["leakage"]["targets_in_their_history"]["test"] == 84
    assert len(Dataset.load(tmp_path / "games").targets("test")) == 50_546
    apart = prepare(games, "recbole", PrepareOptions(same_title="distinguish"))
    assert apart.items.height == 16_859 and apart.items["title"].is_unique().all()
    assert apart.manifest["leakage"]["targets_in_their_history"]["test"] == 0


def test_folder_of_sequences_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "x.item").write_text(TITLES)
    (tmp_path / "x.inter").write_text("user_id:token\titem_id_list:token_seq\titem_id:token\nu\ta b c\td\n")
    dataset = prepare(str(tmp_path), "recbole")
    assert sequences(dataset) == {"u": list("abcd")} and dataset.split.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("form", ["text", "unit interval", "datetime", "whole and not"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_fractions_of_a_second_order_events(tmp_path: Path, form: str, suffix: str) -> None:
    """Twelve events 50 ms apart, rows shuffled: their order is known, and none is tied."""
    place = np.random.default_rng(0).permutation(12)
    times: dict[str, list[object]] = {
        "text": [f"{1577836800 + 0.05 * n:.2f}" for n in place],
        "unit interval": [n / 12 for n in place],
        "datetime": [datetime(2020, 1, 1) + timedelta(milliseconds=50 * int(n)) for n in place],
        "whole and not": [int(n) if n % 2 else n + 0.5 for n in place],
    }
    values = pl.Series("ts", times[form], strict=False)
    if suffix == ".csv" and form == "datetime":
        pytest.skip("CSV has no dates of its own: a timestamp there is a number")
    frame = pl.DataFrame([pl.Series("user_id", ["u"] * 12), pl.Series("item_id", [f"i{n}" for n in place]), values])
    frame = frame.with_columns(pl.col("item_id").alias("title"))
    path = tmp_path / f"log{suffix}"
    frame.write_csv(path) if suffix == ".csv" else frame.write_parquet(path)
    true = sorted(range(12), key=lambda n: n if form != "whole and not" else (n if n % 2 else n + 0.5))
    for split in ("leave-one-out", "time"):
        data = prepare(path, "table", PrepareOptions(timestamp_column="ts", split=split))
        titles = data.items["title"].to_list()
        assert [titles[item] for item in data.events] == [f"i{n}" for n in true]
        (order,) = (step for step in data.manifest["steps"] if step["step"] == "order")
        assert order["tied_events"] == 0
        assert data.timestamps is not None
        assert data.timestamps.dtype == np.int64
