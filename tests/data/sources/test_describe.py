"""What `--describe` says of each public shape, and that it reads no further than it must."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import public_shapes as shapes
import pytest
from hand_written import INTER, ITEM

from cftrec.cli import main
from cftrec.data import PrepareOptions, prepare
from cftrec.data.sources import describe as describing
from cftrec.data.sources import read_source, recognise
from cftrec.data.sources.describe import describe
from cftrec.errors import InputError

Write = Callable[..., Path]
CSV = {"ratings.csv": "userId,movieId,rating,timestamp\n1,2,3,4\n", "movies.csv": "movieId,title,genres\n2,T,x\n"}
DAT = {"ratings.dat": "1::2::3::4\n", "movies.dat": "2::T::x\n"}
SHAPES = {
    **{
        name: getattr(shapes, name)
        for name in dir(shapes)
        if isinstance(getattr(shapes, name), dict) and name.isupper()
    },
    "MovieLens 10M": DAT,
    "MovieLens 1M": {**DAT, "users.dat": ""},
    "MovieLens 20M or 25M": {**CSV, "links.csv": "", "genome-scores.csv": ""},
    "MovieLens 32M or latest": {**CSV, "links.csv": ""},
    "RecBole": {"x.inter": INTER, "x.item": ITEM},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_recognised_and_described(folder: Write, name: str) -> None:
    path = folder(SHAPES[name])
    format, seen = recognise(path)
    kind = name.split("_", maxsplit=1)[0].split(" ", maxsplit=1)[0].lower()
    assert format == {"d3": "splits", "minionerec": "splits"}.get(kind, kind)
    if name.startswith("MovieLens"):
        assert seen.startswith(name)
    before = sorted(path.rglob("*"))
    said = describe(path, "auto", PrepareOptions())
    assert said.startswith(f"format   {format}: {seen}\nfile     ")
    assert "rows looked at: " in said and "options  " in said
    assert sorted(path.rglob("*")) == before


def test_what_is_said(folder: Write) -> None:
    said = describe(folder(shapes.AMAZON_2018), "auto", PrepareOptions()).splitlines()
    assert said[0] == "format   amazon: Amazon Reviews 2018, Video_Games_5.json with meta_Video_Games.json"
    assert said[1].endswith("7 rows looked at, 1 malformed (line 2), 1 not UTF-8, read as Latin-1")
    assert said[3:5] == [
        "columns  user from reviewerID, item from asin, timestamp from unixReviewTime, title from title; "
        "other columns of the items: brand, main_cat, price",
        "times    as given; 2015-07-25 to 2015-10-17",
    ]
    assert said[5] == (
        "log      8 rows looked at: 4 events, 2 users, 2 items; "
        "dropped: 1 malformed, 1 without user, 1 without item, 1 without timestamp"
    )
    assert said[6] == "items    3, 2 of them with a title; dropped: 1 repeated item id, 1 without item id"
    assert "split leave-one-out" in said[-1]


def test_only_the_first_lines_are_read(folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describing, "LOOKED_AT", 3)
    for name, files in SHAPES.items():
        said = describe(folder(files, name), "auto", PrepareOptions())
        assert "rows looked at" in said
    path = folder({"x.inter": INTER + "broken\n", "x.item": ITEM}, "later")
    assert "2 rows looked at" in describe(path, "auto", PrepareOptions())
    with pytest.raises(InputError, match="1 fields, where 4 are due"):
        monkeypatch.setattr(describing, "LOOKED_AT", 100)
        describe(path, "auto", PrepareOptions())


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl"])
def test_a_compressed_table_that_keeps_its_name_is_described_and_prepared(
    folder: Write, tmp_path: Path, name: str
) -> None:
    rows = [("u", "abc"[n], "ABC"[n]) for n in range(3)]
    if name == "x.jsonl":
        text = "".join(json.dumps(dict(zip(("user_id", "item_id", "title"), row, strict=True))) + "\n" for row in rows)
    else:
        between = "," if name == "x.csv" else "\t"
        text = "".join(between.join(row) + "\n" for row in [("user_id", "item_id", "title"), *rows])
    path = folder({name: gzip.compress(text.encode())}) / name
    assert "3 rows looked at: 3 events, 1 users, 3 items" in describe(path, "auto", PrepareOptions())
    made = prepare(path, options=PrepareOptions(items=str(path)))
    assert len(made.events) == 3 and made.items["title"].to_list() == ["A", "B", "C"]


def test_blank_lines_are_not_all_that_is_looked_at(folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder({"x.inter": "\n\n\n" + INTER, "x.item": "\n\n" + ITEM, "x.csv": "\n\nuser_id,item_id,title\nu,a,A\n"})
    assert "6 rows looked at: 6 events" in describe(path, "recbole", PrepareOptions())
    assert read_source(path, "recbole", PrepareOptions()).events.height == 6
    monkeypatch.setattr(describing, "LOOKED_AT", 2)
    with pytest.raises(InputError, match="the log holds no event"):
        describe(path / "x.csv", "auto", PrepareOptions())


def test_a_given_split_is_said(folder: Write) -> None:
    said = describe(folder(shapes.D3), "auto", PrepareOptions())
    assert (
        "split    given by the files; 1 of the rows looked at continue no other, and would be users of their own"
        in said
    )
    assert "leave-one-out" not in said
    assert f"file     train/{'Games_5_2017-10-2018-11'}.csv" in said


def test_from_the_command_line(folder: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder(shapes.GOODREADS)
    main(["prepare", "--describe", str(path)])
    assert capsys.readouterr().out.startswith("format   goodreads: Goodreads, goodreads_interactions_children.json")
    main(["prepare", str(folder(shapes.D3, "d3")), "--out", str(tmp_path / "d")])
    assert "targets: 2 train, 1 validation, 2 test" in capsys.readouterr().out
    for arguments, message in (
        ([str(path)], "--out is missing"),
        (["--describe", str(folder({"a.txt": "x"}, "none"))], "none of the formats"),
        (["--describe", str(path), "--format", "yelp"], "no file of reviews, whose records have"),
        (["--describe", str(path), "--format", "bogus"], "unknown format 'bogus'"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["prepare", *arguments])
        shown = capsys.readouterr()
        assert stop.value.code == 2
        assert message in shown.err and shown.err.count("\n") == 1 and shown.out == ""
