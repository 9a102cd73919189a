"""Amazon, Steam, Goodreads and Yelp in their exact shapes: events, items, and every line that is dropped."""

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import public_shapes as shapes
import pytest

from cftrec.data import prepare
from cftrec.data.sources import SourceOptions, lines, read_source, recognise
from cftrec.errors import InputError

Write = Callable[..., Path]
PLAIN = SourceOptions()


def rows(path: Path, format: str = "auto") -> list[tuple]:
    return read_source(path, format, PLAIN).events.rows()


def dropped(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return what was dropped of the log and of the items, without what was not."""
    facts = read_source(path, "auto", PLAIN).facts
    kinds = []
    for account in (facts["log_rows"], facts["item_rows"]):
        assert account["in"] == account["kept"] + sum(account["dropped"].values())
        kinds.append({reason: count for reason, count in account["dropped"].items() if count})
    return kinds[0], kinds[1]


def test_amazon_2014(folder: Write) -> None:
    path = folder(shapes.AMAZON_2014)
    assert recognise(path) == (
        "amazon",
        "Amazon Reviews 2014, reviews_Video_Games_5.json with meta_Video_Games.json",
    )
    log = read_source(path, "amazon", PLAIN)
    assert log.events.rows() == [
        ("A2", "0700099867", 1341792000),
        ("A1", "0700099867", 1372550400),
        ("A1", "B00000", 1303862400),
        ("A1", "B00000", 1303862400),
    ]
    assert log.items.select("item_id", "title").rows() == [
        ("0700099867", "Dirt 3"),
        ("B00000", 'Assassin\'s "Creed" &amp;amp; Co'),
        ("B00001", None),
    ]
    assert dropped(path) == ({"malformed": 1}, {"malformed": 1})
    assert [file["malformed_lines"] for file in log.facts["files"]] == [[5], [4]]
    assert log.facts["name"] == "amazon-2014-reviews_Video_Games_5"


def test_titles_come_out_of_preparation_as_readers_see_them(folder: Write) -> None:
    titles = {title for name in ("AMAZON_2014", "GOODREADS") for title in prepared_titles(folder, name)}
    assert titles == {"Dirt 3", 'Assassin\'s "Creed" & Co', 'Fun "Book" (2014)', "Tom & Jerry 2"}


def prepared_titles(folder: Write, name: str) -> list[str]:
    files = getattr(shapes, name)
    log, *_ = files
    again = files[log].splitlines()[1]  # a user needs three events for a split
    return prepare(folder({**files, log: files[log] + f"\n{again}\n{again}\n"}, name)).items["title"].to_list()


def test_amazon_2018(folder: Write) -> None:
    path = folder(shapes.AMAZON_2018)
    log = read_source(path, "auto", PLAIN)
    assert log.events.rows() == [
        ("A1", "B1", 1445040000),
        ("A1", "B2", 1437782400),
        ("A1", "B2", 1437782400),
        ("A2", "B1", 1437782401),
    ]
    assert log.items.to_dicts()[0] == {
        "item_id": "B1",
        "title": 'Reversi &amp;quot;1"',
        "brand": "Fidelity",
        "main_cat": "Toys &amp; Games",
        "price": "$1.99",
    }
    assert log.items["title"].to_list()[1:] == ["A\ttab", ""]
    reasons = {"malformed": 1, "without_user": 1, "without_item": 1, "without_timestamp": 1}
    assert dropped(path) == (reasons, {"repeated_item_id": 1, "without_item_id": 1})
    assert log.facts["files"][0]["malformed_lines"] == [2]
    assert log.facts["files"][0]["latin_1_lines"] == 1


def test_amazon_2023_counts_in_milliseconds(folder: Write) -> None:
    path = folder(shapes.AMAZON_2023)
    log = read_source(path, "auto", PLAIN)
    assert log.events.rows() == [
        ("AGCI", "B07DK1H3H5", 1608186804.795),
        ("AGCI", "B07SRWRH5D", 1587051114.941),
    ]
    assert log.facts["timestamp_unit"] == "milliseconds, brought to seconds"
    assert log.items["title"].to_list() == ["Dash 8-300 Professional Add-On", "Phantasmagoria"]
    assert log.items["price"].to_list() == ["53.99", "None"]


@pytest.mark.parametrize("shape", ["AMAZON_2014", "AMAZON_2018", "STEAM", "GOODREADS", "YELP"])
def test_gzip_and_zstd_read_as_the_plain_file(folder: Write, shape: str) -> None:
    zstd = pytest.importorskip("backports.zstd")
    plain = {name: text if isinstance(text, bytes) else text.encode() for name, text in getattr(shapes, shape).items()}
    expected = read_source(folder(plain, "plain"), "auto", PLAIN)
    for name, compress in (("gz", gzip.compress), ("zst", zstd.compress)):
        packed = read_source(
            folder({f"{file}.{name}": compress(content) for file, content in plain.items()}, name), "auto", PLAIN
        )
        assert packed.events.rows() == expected.events.rows()
        assert packed.items.equals(expected.items)
        assert packed.facts["log_rows"] == expected.facts["log_rows"]


SHAPES = ["AMAZON_2014", "AMAZON_2018", "AMAZON_2023", "STEAM", "STEAM_AUSTRALIAN", "STEAM_OWNED", "GOODREADS", "YELP"]


@pytest.mark.parametrize("shape", [*SHAPES, "LASTFM_HETREC", "LASTFM_1K"])
def test_blocks_of_a_line_read_as_one(folder: Write, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(getattr(shapes, shape), "files")
    whole = read_source(path, "auto", PLAIN)
    monkeypatch.setattr(lines, "_BLOCK", 50)
    parts = read_source(path, "auto", PLAIN)
    assert parts.events.rows() == whole.events.rows()
    assert parts.items.equals(whole.items)
    assert parts.facts == whole.facts
    for column in ("user", "item"):  # 4 bytes an event, however long its id
        assert isinstance(parts.events.schema[column], pl.Categorical)


def test_a_category_among_several_is_named_by_its_file(folder: Write) -> None:
    meta = '{"asin": "B1", "title": "Another", "main_cat": "x"}\n'
    files = {**shapes.AMAZON_2018, "Office.json": shapes.AMAZON_2018["Video_Games_5.json"], "meta_Office.json": meta}
    path = folder(files)
    with pytest.raises(InputError, match=r"several logs .Office.json, Video_Games_5.json.; name the file of one"):
        recognise(path)
    assert read_source(path / "Office.json", "auto", PLAIN).items["title"].to_list() == ["Another"]
    assert read_source(path / "Video_Games_5.json", "auto", PLAIN).items.height == 3


def test_what_record_sources_refuse(folder: Write, tmp_path: Path) -> None:
    def refusal(path: Path, format: str = "amazon", options: SourceOptions = PLAIN) -> str:
        with pytest.raises(InputError) as caught:
            read_source(path, format, options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    reviews = {"Video_Games_5.json": shapes.AMAZON_2018["Video_Games_5.json"]}
    assert "Video_Games_5.json: no file of items beside it" in refusal(folder(reviews, "alone"))
    for format in ("amazon", "steam", "goodreads", "yelp"):
        assert "whose records have" in refusal(folder({"a.json": "{}"}, "none"), format)
        assert "no readable folder" in refusal(tmp_path / "nowhere", format)
        assert "option user_column" in refusal(tmp_path, format, SourceOptions(user_column="u"))
    noise = {**shapes.AMAZON_2018, "Video_Games_5.json": shapes.AMAZON_2018["Video_Games_5.json"] + b"x\n" * 20}
    message = refusal(folder(noise, "noise"))
    assert "Video_Games_5.json: 21 of 28 lines are no JSON objects (line 2); is it the right file?" in message
    content = gzip.compress(shapes.AMAZON_2018["Video_Games_5.json"] * 1000)
    cut = {"meta_x.json": shapes.AMAZON_2018["meta_Video_Games.json"], "x.json.gz": content[:-2000]}
    assert "x.json.gz: the compressed file is damaged or ends early" in refusal(folder(cut, "cut"))
    assert "none of the formats" in refusal(folder({"a.json": "{}"}, "none"), "auto")


def test_steam_reviews(folder: Write) -> None:
    path = folder(shapes.STEAM)
    log = read_source(path, "auto", PLAIN)
    assert log.events.rows() == [
        ("Chaos Syren", "761140", 1513468800),
        ("Café's", "643980", 1513382400),
        ("None: True", "761140", 1392336000),
        ("None: True", "761140", 1392336000),
    ]
    assert log.items.rows() == [
        ("761140", "Lost Summoner Kitty", "2018-01-04", "Kotoshiro", "Action, Casual"),
        ("643980", 'Ironbound\'s ™ "2"', None, None, "Indie"),
    ]
    assert dropped(path) == ({"malformed": 1, "without_timestamp": 1}, {"without_item_id": 1})


def test_steam_reviews_of_australian_users(folder: Write) -> None:
    path = folder(shapes.STEAM_AUSTRALIAN)
    assert rows(path) == [("76561197970982479", "761140", 1320451200), ("evcentric", "643980", 1391385600)]
    assert dropped(path)[0] == {"malformed": 1, "without_timestamp": 1}  # a line; a review without a year


def test_steam_games_owned(folder: Write) -> None:
    path = folder(shapes.STEAM_OWNED)
    assert rows(path) == [("76561", "10", None), ("76561", "20", None), ("v", "10", None)]
    log = read_source(path / "australian_users_items.json", "steam", PLAIN)
    assert log.items.rows() == [("10", "Counter-Strike"), ("20", "Team Fortress Classic")]


def test_goodreads(folder: Write) -> None:
    path = folder(shapes.GOODREADS)
    user = "8842281e1d1347389f2ab93d60773d4d"
    assert rows(path) == [
        (user, "23310161", 1447789055),
        (user, "18296097", 1447760255),
        ("u2", "18296097", 1582934400),
    ]
    items = read_source(path, "goodreads", PLAIN).items
    assert items["title"].to_list() == ['Fun "Book"', "Tom &amp;amp; Jerry\t2"]
    assert items["publication_year"].to_list() == ["2014", ""]
    assert dropped(path) == ({"malformed": 1, "without_timestamp": 1}, {})


def test_yelp(folder: Write) -> None:
    path = folder(shapes.YELP)
    assert rows(path) == [
        ("mh_-eMZ6K5RLWh", "XQfwVwDr-v0ZS3", 1531001351),
        ("mh_-eMZ6K5RLWh", "7ATYjTIgM3jUlt", 1325604498),
    ]
    items = read_source(path, "yelp", PLAIN).items
    assert items.select("title", "city", "categories").rows() == [
        ("Turning Point &amp; Co", "North Wales", "Restaurants, Food"),
        ("Starbucks", "Tampa", None),
    ]
    assert dropped(path) == ({"malformed": 1, "without_timestamp": 1}, {})
