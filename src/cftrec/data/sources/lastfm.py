"""Last.fm: the 2011 HetRec folder and LastFM-1K, tab-separated; items are artists.

HetRec: `artists.dat`, and as the log either `user_taggedartists-timestamps.dat` (an artist tagged, in milliseconds;
several tags of an artist at one time are one event) or, where that is not there or it is named, `user_artists.dat`
(artists listened to, without timestamps). LastFM-1K: `userid-timestamp-artid-artname-traid-traname.tsv`, a play a
line; an artist without MusicBrainz id goes by its name.
https://grouplens.org/datasets/hetrec-2011/ and http://ocelma.net/MusicRecommendationDataset/lastfm-1K.html
"""

from pathlib import Path

import polars as pl

from cftrec.data.sources.lines import read_fields
from cftrec.data.sources.log import Log, SourceOptions, complete, event_frame, has_text, item_frame, make_log
from cftrec.data.sources.sheet import dates, files_in, numbers
from cftrec.errors import InputError

_PLAYS = "userid-timestamp-artid-artname-traid-traname.tsv"
_TAGGED, _HEARD, _ARTISTS = "user_taggedartists-timestamps.dat", "user_artists.dat", "artists.dat"
_HEADS = {_TAGGED: ("userID", "artistID", "tagID", "timestamp"), _HEARD: ("userID", "artistID", "weight")}


def recognise(source: Path) -> str | None:
    """Say which of the two data sets it is, and which file is its log."""
    log = _find(source)
    return None if log is None else f"{'LastFM-1K' if log.name == _PLAYS else 'Last.fm of HetRec 2011'}, {log.name}"


def read(source: str | Path, options: SourceOptions, limit: int | None = None) -> Log:
    """Read one of the two folders, or the file of the log in it.

    Raises:
        InputError: a file is missing, or most of its lines cannot be read.
    """
    options.refuse_others("lastfm")
    log = _find(Path(source))
    if log is None:
        raise InputError(f"{source}: no log of Last.fm; it holds none of {_PLAYS}, {_TAGGED}, {_HEARD}")
    return _plays(log, limit) if log.name == _PLAYS else _hetrec(log, limit)


def _find(source: Path) -> Path | None:
    if source.is_file():
        return source if source.name in (_PLAYS, *_HEADS) else None
    found = files_in(source)
    return next((source / name for name in (_PLAYS, *_HEADS) if name in found), None)


def _plays(path: Path, limit: int | None) -> Log:
    def take(part: pl.DataFrame) -> pl.DataFrame:
        item = part.select(pl.when(has_text("artist")).then("artist").otherwise("name")).to_series()
        events = event_frame(part["user"], item, dates(part["time"], "%Y-%m-%dT%H:%M:%SZ"))
        return events.with_columns(part["name"])

    log = read_fields(path, ("user", "time", "artist", "name", "track", "title"), take, limit=limit)
    events, rows = complete(log.frame.drop("name"), log.malformed)
    named = log.frame.select("item", "name").unique(maintain_order=True).cast(pl.String).filter(has_text("name"))
    artists = named.unique("item", keep="first", maintain_order=True)
    items = item_frame(artists["item"], artists["name"], pl.DataFrame())
    columns = {"user": "userid", "item": "artid", "timestamp": "timestamp", "title": "artname"}
    return make_log("lastfm-1k", "lastfm", [log], events, items, rows=rows, columns=columns)


def _hetrec(path: Path, limit: int | None) -> Log:
    head = _HEADS[path.name]
    timed = path.name == _TAGGED

    def take(part: pl.DataFrame) -> pl.DataFrame:
        return event_frame(part["userID"], part["artistID"], numbers(part["timestamp"]) if timed else None)

    log = read_fields(path, head, take, header=head, limit=limit)
    fields = ("id", "name", "url", "pictureURL")
    artists = read_fields(path.parent / _ARTISTS, fields, header=fields, limit=limit)
    events, rows = complete(log.frame, log.malformed, timed)
    if timed:
        events, before = events.unique(keep="first", maintain_order=True), events.height
        dropped = rows["dropped"] | {"further_tags_at_one_time": before - events.height}
        rows = {"in": rows["in"], "kept": events.height, "dropped": dropped}
    items = item_frame(artists.frame["id"], artists.frame["name"], pl.DataFrame())
    columns = {"user": "userID", "item": "artistID", "timestamp": "timestamp" if timed else None, "title": "name"}
    return make_log("lastfm-hetrec", "lastfm", [log, artists], events, items, rows=rows, columns=columns)
