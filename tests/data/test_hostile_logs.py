"""Logs and folders as they should not be, through the command line: right, or refused in one line; never half."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import public_shapes as shapes
import pytest

from cftrec.cli import main
from cftrec.data import Dataset
from cftrec.data.sources import recbole, stream, table
from cftrec.data.sources.stream import read_log

Write = Callable[..., Path]
LOG = "user_id,item_id,title\n" + "".join(f"u{user},{item},T{item}\n" for user in range(3) for item in range(4))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Run prepare and return the one line that it refuses with."""

    def run(source: Path, *words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["prepare", str(source), "--out", str(tmp_path / "refused"), *words])
        shown = capsys.readouterr()
        assert stop.value.code == 2 and shown.err.count("\n") == 1 and not (tmp_path / "refused").exists()
        return shown.err

    return run


def prepared(source: Path, out: Path, *words: str) -> Dataset:
    main(["prepare", str(source), "--out", str(out), *words])
    return Dataset.load(out)


@pytest.mark.parametrize("head", ['user_id,item_id,title,"note\n(free)"\n', "\n\nuser_id,item_id,title,note\n"])
def test_every_block_has_the_whole_header(
    tmp_path: Path, folder: Write, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr(table, "read_log", partial(read_log, block=40))
    path = folder({"x.csv": head + "".join(f"u{n % 5},{n % 3},T{n % 3},x\n" for n in range(40))})
    assert len(prepared(path / "x.csv", tmp_path / "o").events) == 40


@pytest.mark.parametrize(
    ("shape", "words"),
    [("D3", ["--max-untitled", "1"]), ("MINIONEREC", ["--max-untitled", "1"]), ("ALPACA", [])],
)
def test_given_splits_are_found_prepared(
    folder: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: str, words: list[str]
) -> None:
    path = folder(getattr(shapes, shape))
    prepared(path, tmp_path / "o", *words)
    capsys.readouterr()
    main(["prepare", str(path), "--out", str(tmp_path / "o"), *words])
    assert "already prepared" in capsys.readouterr().out


def test_log_and_items_of_one_name_and_a_named_format(
    folder: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = folder({"d.csv": LOG.replace(",title", ",x")}, "log") / "d.csv"
    items = folder({"d.csv": "item_id,title\n" + "".join(f"{n},T{n}\n" for n in range(4))}, "items") / "d.csv"
    lens = {
        "ratings.csv": "userId,movieId,rating,timestamp\n" + "".join(f"1,{n},5,{n}\n2,{n},3,{n}\n" for n in range(4))
    }
    lens |= {"movies.csv": "movieId,title,genres\n" + "".join(f"{n},Film {n} (1999),Drama\n" for n in range(4))}
    for source, out, words in (
        (log, tmp_path / "a", ["--items", str(items)]),
        (folder(lens, "ml"), tmp_path / "b", ["--format", "movielens"]),
    ):
        prepared(source, out, *words)
        capsys.readouterr()
        main(["prepare", str(source), "--out", str(out), *words])
        assert "already prepared" in capsys.readouterr().out


def test_a_planted_world_can_be_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["world", "--out", str(tmp_path / "w"), "--users", "20"])
    main(["data", str(tmp_path / "w"), "--html", str(tmp_path / "w.html")])
    assert "sparsity" in capsys.readouterr().out and (tmp_path / "w.html").exists()
    with pytest.raises(SystemExit):
        main(["data", str(tmp_path / "w"), "--seed", "-1"])
    assert "option seed: -1 is below 0" in capsys.readouterr().err


@pytest.mark.parametrize("escape", ["a\\x4", "a\\u12", "\\N{foo}", "\u00e9\\x4"])
def test_a_broken_escape_is_a_malformed_line(folder: Write, tmp_path: Path, escape: str) -> None:
    broken = f"{{u'username': u'{escape}', u'product_id': u'761140', u'date': u'2017-12-01'}}\n"
    reviews = "".join(
        f"{{u'username': u'u{n % 4}', u'product_id': u'761140', u'date': u'2017-12-{n + 10}'}}\n" for n in range(15)
    )
    path = folder(shapes.STEAM | {"steam_reviews.json": reviews + broken})
    read = prepared(path, tmp_path / "o").manifest["steps"][0]["events"]
    assert read["kept"] == 15 and read["dropped"]["malformed"] == 1


def test_users_without_a_list_are_malformed(folder: Write, tmp_path: Path) -> None:
    odd = "{'user_id': 'a', 'user_url': 'u', 'reviews': 'none'}\n{'user_id': 'b', 'user_url': 'u', 'reviews': {}}\n"
    posts = ", ".join(f"{{'posted': 'Posted May {day}, 2014.', 'item_id': '643980'}}" for day in range(1, 4))
    good = f"{{'user_id': 'c', 'user_url': 'u', 'reviews': [{posts}]}}\n"
    good += "{'user_id': 'd', 'user_url': 'u', 'reviews': []}\n"
    path = folder(shapes.STEAM_AUSTRALIAN | {"australian_user_reviews.json": good + odd})
    read = prepared(path, tmp_path / "o").manifest["steps"][0]["events"]
    assert (read["in"], read["kept"], read["dropped"]["malformed"]) == (5, 3, 2)


def test_beginnings_are_merged_away_while_a_log_is_read(folder: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows by length, so that no block holds a user's longest: what is kept stays within twice what is left."""
    held = []

    def watched(found):
        held.append(found.height)
        return merge(found)

    merge = recbole._merged
    monkeypatch.setattr(recbole, "_merged", watched)
    monkeypatch.setattr(recbole, "read_log", partial(read_log, block=400))
    letters = "abcdefgh"
    rows = "".join(f"u{user}\t{' '.join(letters[:n])}\t{letters[n]}\n" for n in range(8) for user in range(40))
    log = {"x.inter": "user_id:token\titem_id_list:token_seq\titem_id:token\n" + rows}
    path = folder(log | {"x.item": "item_id:token\ttitle:token\n" + "".join(f"{c}\tT{c}\n" for c in letters)})
    events = recbole.read(path, recbole.SourceOptions()).events
    assert events.height == 320 and max(held) <= 2 * 320 + 100 < len(rows.split()) - 640


@pytest.mark.parametrize(
    "parts",
    [
        {"train.csv": "", "test.csv": "u,\"['a']\",b\n"},
        {"train.csv": "u,\"['a']\",b\n", "test.csv": "u,\"['a', 'b']\",c\n"},
    ],
)
def test_a_part_of_no_rows_and_columns_of_one_part_only(folder: Write, tmp_path: Path, parts: dict[str, str]) -> None:
    head = "user_id,history_item_id,item_id"
    files = {name: f"{head}\n{rows}" for name, rows in parts.items()}
    if parts["train.csv"]:
        files["train.csv"] = f"{head},history_timestamp,timestamp\nu,\"['a']\",b,[1],2\n"
    path = folder(files | {"info.txt": "A\ta\nB\tb\nC\tc\n"})
    data = prepared(path, tmp_path / "o")
    assert data.timestamps is None and len(data.targets("test")) == 1


def test_half_a_character_in_a_title(folder: Write, tmp_path: Path) -> None:
    rows = [{"instruction": "x", "input": '"A\ud83d", "B"', "output": '"C\ud83d"'}] * 2
    path = folder({name: json.dumps(rows) for name in ("train.json", "test.json")})
    assert sorted(prepared(path, tmp_path / "o").items["title"]) == ["A?", "B", "C?"]


def test_a_title_column_that_is_the_items(folder: Write, tmp_path: Path) -> None:
    rows = "".join(json.dumps({"user_id": f"u{n % 2}", "item_id": n // 2}) + "\n" for n in range(8))
    path = folder({"x.jsonl": rows}) / "x.jsonl"
    assert prepared(path, tmp_path / "o", "--title-column", "item_id").items["title"].to_list() == ["0", "1", "2", "3"]


def test_a_header_with_a_field_too_many(folder: Write, refused: Callable[..., str]) -> None:
    heard = shapes.LASTFM_HETREC["user_artists.dat"].replace("weight\r", "weight\t\r")
    path = folder(shapes.LASTFM_HETREC | {"user_artists.dat": heard})
    assert "its first line is not userID, artistID, weight" in refused(path / "user_artists.dat")


def test_a_short_row_behind_a_long_field(folder: Write, refused: Callable[..., str]) -> None:
    path = folder({"x.csv": "user_id,item_id,title,x\nu,1," + "z" * 140_000 + ",\nu,2\nu,3,c,\nu,4,d,\n"})
    assert "row 2 (line 3): 2 fields, where 4 are due" in refused(path / "x.csv")


def test_file_names_in_another_coding(folder: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder({"x.csv": LOG})
    beside = os.fsencode(path) + b"/caf\xe9.txt"
    odd = os.fsencode(path) + b"/caf\xe9.csv"
    Path(os.fsdecode(beside)).touch()
    shutil.copy(path / "x.csv", os.fsdecode(odd))
    for source, out in ((path / "x.csv", tmp_path / "a"), (Path(os.fsdecode(odd)), tmp_path / "b")):
        prepared(source, out)
        capsys.readouterr()
        main(["prepare", str(source), "--out", str(out)])
        assert "already prepared" in capsys.readouterr().out


def test_a_full_disk(folder: Write, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Dataset, "save", full)
    assert refused(folder({"x.csv": LOG}) / "x.csv") == "cftrec: writing failed: No space left on device\n"


def test_where_nothing_can_be_written_is_said_before_anything_is_read(
    folder: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder({"x.csv": LOG}) / "x.csv"
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    monkeypatch.setattr(stream, "read_log", None)
    for out in (tmp_path / "file" / "o", tmp_path / "circle" / "o", tmp_path / "circle"):
        with pytest.raises(SystemExit) as stop:
            main(["prepare", str(path), "--out", str(out)])
        assert stop.value.code == 2
        assert "cannot be created" in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_a_first_line_longer_than_what_is_looked_at(folder: Write, tmp_path: Path) -> None:
    games = ", ".join(f"{{'item_id': '{n}', 'item_name': 'Game number {n}'}}" for n in range(6000))
    lines = [f"{{'user_id': '{user}', 'items_count': 6000, 'user_url': 'u', 'items': [{games}]}}\n" for user in "ab"]
    path = folder({"australian_users_items.json": "".join(lines)}, "steam")
    assert len(prepared(path, tmp_path / "steam-data").events) == 12_000
    rows = [{"instruction": "x", "input": f'"A {n}", "B"', "output": f'"C {n}"'} for n in range(6000)]
    path = folder({name: json.dumps(rows) for name in ("train.json", "test.json")}, "alpaca")
    assert len(prepared(path, tmp_path / "alpaca-data").targets("test")) == 6000


def test_lines_that_end_as_on_old_macs(folder: Write, tmp_path: Path) -> None:
    assert len(prepared(folder({"x.csv": LOG.replace("\n", "\r")}) / "x.csv", tmp_path / "o").events) == 12


def test_a_quote_inside_a_field_is_placed(folder: Write, refused: Callable[..., str]) -> None:
    path = folder({"x.csv": LOG + 'u9,1,Blue 12" vinyl\nu9,2,T2\n'}) / "x.csv"
    assert "x.csv, line 14: cannot be read as separated fields" in refused(path)


def test_nan_in_json_lines(folder: Write, tmp_path: Path, refused: Callable[..., str]) -> None:
    rows = "".join(f'{{"user_id": "u{n % 2}", "item_id": {n // 2}, "title": "T", "rating": NaN}}\n' for n in range(8))
    assert len(prepared(folder({"x.jsonl": rows}) / "x.jsonl", tmp_path / "o").events) == 8
    assert "row 9 (line 9): not a JSON object" in refused(folder({"y.jsonl": rows + "[" * 100_000}) / "y.jsonl")


def test_ids_that_are_no_number(tmp_path: Path, refused: Callable[..., str]) -> None:
    import polars as pl

    path = tmp_path / "x.parquet"
    pl.DataFrame({"user_id": [1.0, 1.0, float("nan")], "item_id": [1, 2, 3], "title": list("abc")}).write_parquet(path)
    assert "row 3: 'user_id' is empty" in refused(path)


def test_items_with_columns_named_as_ours(folder: Write, tmp_path: Path) -> None:
    path = folder({"x.csv": LOG, "i.csv": "id,item_id,source_item_id,title\n0,a,b,T\n1,a,b,U\n2,a,b,V\n3,a,b,W\n"})
    words = ["--items", str(path / "i.csv"), "--items-item-column", "id"]
    items = prepared(path / "x.csv", tmp_path / "o", *words).items
    assert items.columns == ["item_id", "title", "source_source_item_id", "source_item_id"]
    assert items.row(0) == ("0", "T", "a", "b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "1e308"], "option memory: 1e+308 GiB is no size"),
        (
            ["--timestamp-column", "t", "--split", "rows", "--test-share", "1e-17"],
            "is left for test; give other shares",
        ),
        (
            ["--timestamp-column", "t", "--split", "rows", "--validation-share", "0.5", "--test-share", "0.49999"],
            "no event of 9 is left for train",
        ),
        (
            ["--timestamp-column", "old", "--window-items", "2"],
            "the last timestamp, -62135596800, is no time in seconds",
        ),
    ],
)
def test_options_that_leave_nothing(folder: Write, refused: Callable[..., str], words: list[str], message: str) -> None:
    lines = LOG.split()
    rows = [f"{line},{n},-62135596800" for n, line in enumerate(lines[1:])]
    path = folder({"x.csv": "\n".join([lines[0] + ",t,old", *rows]) + "\n"}) / "x.csv"
    assert message in refused(path, *words)


def test_a_split_where_the_source_has_its_own(folder: Write, refused: Callable[..., str]) -> None:
    path = folder(shapes.D3)
    assert "option split: the source gives its split" in refused(path, "--max-untitled", "1", "--split", "time")
