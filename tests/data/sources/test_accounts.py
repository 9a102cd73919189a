"""On every source: rows in = rows kept + each named drop, and each drop is counted under its own name."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cftrec.data import PrepareOptions, prepare

GOOD, USER, ITEM, TIME, BROKEN = "good", "without_user", "without_item", "without_timestamp", "malformed"
ITEMS = "abcde"


def record(fields: tuple[str, str, str], *, literal: bool = False, stamp: str = "{}", **others: object):
    """Return a writer of one line of records, from its kind, user, item and time."""
    user_field, item_field, time_field = fields

    def line(kind: str, user: str, item: str, time: int) -> str:
        if kind == BROKEN:
            return '{"broken": '
        values = {user_field: user, item_field: item, time_field: stamp.format(time), **others}
        values |= {USER: {user_field: ""}, ITEM: {item_field: None}, TIME: {time_field: "never"}}.get(kind, {})
        return repr(values) if literal else json.dumps(values)

    return line


def play(kind: str, user: str, item: str, time: int) -> str:
    if kind == BROKEN:
        return "one\tfield"
    user, item = "" if kind == USER else user, "" if kind == ITEM else item
    when = "never" if kind == TIME else f"2009-05-04T23:00:{time % 60:02d}Z"
    return f"{user}\t{when}\t{item}\t{item}\t\tx"


def tag(kind: str, user: str, item: str, time: int) -> str:
    if kind == BROKEN:
        return "2"
    user, item = "" if kind == USER else user, "" if kind == ITEM else item
    return f"{user}\t{item}\t{time}\t{'never' if kind == TIME else 10**12 + 1000 * time}"


def records_of(*names: str) -> str:
    return "".join(json.dumps(dict.fromkeys(names, item) | {"city": "x"}) + "\n" for item in ITEMS)


ALL = (GOOD, USER, ITEM, TIME, BROKEN)
ONLY = (GOOD,)
# name of the log: (its line, kinds of lines, what comes before them, the other files)
LINES = {
    "amazon-2014/reviews_x.json": (
        record(("reviewerID", "asin", "unixReviewTime"), overall=float("nan")),
        ALL,
        "",
        {"meta_x.json": records_of("asin", "title")},
    ),
    "amazon-2018/x.json": (
        record(("reviewerID", "asin", "unixReviewTime"), verified=True),
        ALL,
        "",
        {"meta_x.json": records_of("asin", "title")},
    ),
    "amazon-2023/x.jsonl": (
        record(("user_id", "parent_asin", "timestamp"), stamp="160818{:07d}"),
        ALL,
        "",
        {"meta_x.jsonl": records_of("parent_asin", "title")},
    ),
    "steam/steam_reviews.json": (
        record(("username", "product_id", "date"), literal=True, stamp="2017-12-{:02d}"),
        ALL,
        "",
        {"steam_games.json": records_of("id", "app_name")},
    ),
    "goodreads/goodreads_interactions_x.json": (
        record(("user_id", "book_id", "date_added"), stamp="Tue Nov 17 11:37:{:02d} -0800 2015"),
        ALL,
        "",
        {"goodreads_books_x.json": records_of("book_id", "title")},
    ),
    "yelp/review.json": (
        record(("user_id", "business_id", "date"), stamp="2018-07-07 22:09:{:02d}", stars=3.0),
        ALL,
        "",
        {"business.json": records_of("business_id", "name")},
    ),
    "lastfm-1k/userid-timestamp-artid-artname-traid-traname.tsv": (play, ALL, "", {}),
    "hetrec/user_taggedartists-timestamps.dat": (
        tag,
        ALL,
        "userID\tartistID\ttagID\ttimestamp\n",
        {"artists.dat": "id\tname\turl\tpictureURL\n" + "".join(f"{item}\t{item}\t\t\n" for item in ITEMS)},
    ),
    "recbole/x.inter": (
        lambda kind, user, item, time: f"{user}\t{item}\t{time}",
        ONLY,
        "user_id:token\titem_id:token\ttimestamp:float\n",
        {"x.item": "item_id:token\ttitle:token_seq\n" + "".join(f"{item}\t{item}\n" for item in ITEMS)},
    ),
    "ml-1m/ratings.dat": (
        lambda kind, user, item, time: f"{user}::{item}::3::{time}",
        ONLY,
        "",
        {"movies.dat": "".join(f"{item}::{item}::Drama\n" for item in ITEMS), "users.dat": ""},
    ),
    "ml-latest/ratings.csv": (
        lambda kind, user, item, time: f"{user},{item},NaN,{time}",
        ONLY,
        "userId,movieId,rating,timestamp\n",
        {"movies.csv": "movieId,title,genres\n" + "".join(f"{item},{item},x\n" for item in ITEMS), "links.csv": ""},
    ),
    "table/log.csv": (lambda kind, user, item, time: f"{user},{item},{item}", ONLY, "user_id,item_id,title\n", {}),
}


@pytest.mark.parametrize("name", LINES)
@given(data=st.data())
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_line_is_kept_or_dropped_by_name(name: str, data: st.DataObject, tmp_path: Path) -> None:
    line, kinds, head, others = LINES[name]
    drawn = data.draw(
        st.lists(st.tuples(st.sampled_from(kinds), st.sampled_from("uv"), st.sampled_from(ITEMS)), max_size=8)
    )
    # Enough sound lines of one user for a split, and never most of them broken.
    rows = [*((GOOD, "w", item) for item in ITEMS * 2), *drawn]
    folder = tmp_path / name.split("/", maxsplit=1)[0]
    folder.mkdir(exist_ok=True)
    lines = [line(kind, user, item, time + 1) for time, (kind, user, item) in enumerate(rows)]
    (folder / name.split("/")[1]).write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    for file, text in others.items():
        (folder / file).write_text(text, encoding="utf-8")
    source = folder / "log.csv" if "table" in name else folder
    manifest = prepare(source, options=PrepareOptions(repeats="first")).manifest

    expected = Counter(kind for kind, *_ in rows)
    read = manifest["steps"][0]
    assert read["events"] == manifest["source"]["log_rows"]
    assert read["events"]["in"] == len(rows)
    assert read["events"]["kept"] == expected.pop(GOOD)
    assert {reason: count for reason, count in read["events"]["dropped"].items() if count} == expected
    for before, after in zip(manifest["steps"], manifest["steps"][1:], strict=False):
        for what in ("users", "items", "events"):
            assert after[what]["in"] == before[what]["kept"]
            assert after[what]["in"] == after[what]["kept"] + sum(after[what]["dropped"].values())


def split_files(rows: list[tuple[str, str, str, str]]) -> dict[str, str]:
    def csv(part: str) -> str:
        found = [f'{user},"{history}",{item},{item}' for where, user, history, item in rows if where == part]
        return "user_id,history_item_id,item_id,item_title\n" + "".join(row + "\n" for row in found)

    return {f"{part}.csv": csv(part) for part in ("train", "valid", "test")} | {"info.txt": "A\t1\nB\t2\nC\t3\n"}


def alpaca_files(rows: list[tuple[str, str, str, str]]) -> dict[str, str]:
    def record(history: str, item: str) -> dict[str, object]:
        shown = {"[1]": 'x: "A"\n ', "[1, 2]": 'x: "A", "B"\n ', "[]": "", "oops": None}[history]
        return {"instruction": "x", "input": shown, "output": f'"{item}"\n'}

    parts = {part: [record(history, item) for where, _, history, item in rows if where == part] for part in PARTS}
    return {f"{part}.json": json.dumps(found) for part, found in parts.items()}


PARTS = ("train", "valid", "test")
REASONS = {"[]": "without_history", "oops": BROKEN}


@pytest.mark.parametrize("write", [split_files, alpaca_files])
@given(
    drawn=st.lists(
        st.tuples(st.sampled_from(PARTS), st.sampled_from("uv"), st.sampled_from(["[1]", "[]", "oops"]), st.just("2")),
        max_size=8,
    )
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_sample_is_kept_or_dropped_by_name(write, drawn: list[tuple[str, str, str, str]], tmp_path: Path) -> None:
    rows = [("train", "w", "[1]", "2"), ("test", "w", "[1, 2]", "3"), *drawn]
    folder = tmp_path / write.__name__
    folder.mkdir(exist_ok=True)
    for file, text in write(rows).items():
        (folder / file).write_text(text, encoding="utf-8")
    data = prepare(folder)
    read = data.manifest["steps"][0]["rows"]
    expected = Counter(REASONS.get(history, GOOD) for *_, history, _ in rows)
    assert read["in"] == len(rows)
    assert (
        read["kept"] == expected.pop(GOOD) == sum(len(data.targets(split)) for split in ("train", "validation", "test"))
    )
    assert {reason: count for reason, count in read["dropped"].items() if count} == expected
