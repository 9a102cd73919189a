"""Last.fm: HetRec's tags and plays, and the plays of LastFM-1K."""

from collections.abc import Callable
from pathlib import Path

import public_shapes as shapes
import pytest

from cftrec.data.sources import SourceOptions, read_source, recognise
from cftrec.errors import InputError

Write = Callable[..., Path]
PLAIN = SourceOptions()


def test_hetrec_tags(folder: Write) -> None:
    path = folder(shapes.LASTFM_HETREC)
    assert recognise(path) == ("lastfm", "Last.fm of HetRec 2011, user_taggedartists-timestamps.dat")
    log = read_source(path, "auto", PLAIN)
    assert log.events.rows() == [("2", "52", 1238536800), ("2", "51", 1241128800), ("3", "51", 1175378400)]
    assert log.facts["timestamp_unit"] == "milliseconds, brought to seconds"
    assert log.facts["log_rows"] == {
        "in": 6,
        "kept": 3,
        "dropped": {
            "malformed": 1,
            "without_user": 0,
            "without_item": 0,
            "without_timestamp": 1,
            "further_tags_at_one_time": 1,
        },
    }
    assert log.items.rows() == [("51", 'Duran "Duran"'), ("52", "Morcheeba &amp;amp; Co"), ("53", "")]
    assert log.facts["item_rows"]["dropped"]["malformed"] == 1


def test_hetrec_plays_by_naming_their_file(folder: Write) -> None:
    log = read_source(folder(shapes.LASTFM_HETREC) / "user_artists.dat", "auto", PLAIN)
    assert log.events.rows() == [("2", "51", None), ("2", "52", None), ("3", "51", None)]
    assert log.facts["log_rows"]["dropped"]["malformed"] == 1
    assert log.facts["timestamp_unit"] is None


def test_plays(folder: Write) -> None:
    path = folder(shapes.LASTFM_1K)
    log = read_source(path, "auto", PLAIN)
    artist = "f1b1cf71-bd35-4e99-8624-24a6e15f133a"
    assert log.events.rows()[0] == ("user_000001", artist, 1241478537)
    assert log.events.rows()[2:] == [
        ("user_000002", "No MusicBrainz", 1241445124),
        ("user_000002", "No MusicBrainz", 1241445124),
        ("user_000003", "Björk", 1241531524),
    ]
    assert log.items["title"].to_list() == ["Deep Dish", "坂本龍一", "No MusicBrainz", "Björk"]
    dropped = {"malformed": 1, "without_user": 0, "without_item": 1, "without_timestamp": 1}
    assert log.facts["log_rows"] == {"in": 8, "kept": 5, "dropped": dropped}
    assert log.facts["files"][0]["latin_1_lines"] == 1


def test_refusals(folder: Write) -> None:
    with pytest.raises(InputError, match=r"no log of Last.fm"):
        read_source(folder({"x.dat": "y"}, "a"), "lastfm", PLAIN)
    alone = {"user_artists.dat": shapes.LASTFM_HETREC["user_artists.dat"]}
    with pytest.raises(InputError, match=r"artists.dat: cannot be read"):
        read_source(folder(alone, "b"), "lastfm", PLAIN)
