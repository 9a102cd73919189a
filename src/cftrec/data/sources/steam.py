"""Steam as UCSD publishes it: Python dictionaries, one a line, read as literals.

The log is `steam_reviews` (users by `username`, as the literature has it, for few records have a `user_id`),
`australian_user_reviews` (a line a user) or `australian_users_items` (games owned, without timestamps: their order is
the list's). Titles come from `steam_games`, and of the games owned from the log itself.
https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl

from cftrec.data.sources.lines import Lines
from cftrec.data.sources.log import Log, SourceOptions, complete, event_frame, has_text, item_frame, make_log
from cftrec.data.sources.records import Schema, read_records, record_files
from cftrec.data.sources.sheet import dates
from cftrec.errors import InputError

Take = Callable[[pl.DataFrame], pl.DataFrame]
_GAMES: Schema = dict.fromkeys(("id", "title", "app_name", "release_date", "developer"), pl.String)
_GAMES = {**_GAMES, "genres": pl.List(pl.String)}
_REVIEWS = {"username", "product_id", "date"}
_USERS = {"user_id", "user_url", "reviews"}
_OWNED = {"user_id", "items_count", "items"}


def recognise(source: Path) -> str | None:
    """Say which log of Steam there is."""
    for log in (_REVIEWS, _USERS):
        found = record_files(source, log, {"id", "app_name"})
        if found:
            return f"Steam, {found[0].name} with {found[1].name}"
    owned = record_files(source, _OWNED, None)
    return f"Steam, {owned[0].name}, games owned, without timestamps" if owned else None


def read(source: str | Path, options: SourceOptions, limit: int | None = None) -> Log:
    """Read a folder with one log and `steam_games`, or the file of the log.

    Reviews that say no year ("Posted July 15.") have no timestamp and are dropped as such.

    Raises:
        InputError: a file is missing or there are several, or most of its lines cannot be read.
    """
    options.refuse_others("steam")
    path = Path(source)
    if found := record_files(path, _REVIEWS, {"id", "app_name"}):
        fields = dict.fromkeys(("username", "product_id", "date"), pl.String)
        log = read_records(found[0], fields, limit, _reviews)
        return _log(log, found[1], log.frame, "username", limit)
    if found := record_files(path, _USERS, {"id", "app_name"}):
        log = _nested(found[0], "reviews", ("item_id", "posted"), limit, _posted)
        return _log(log, found[1], log.frame, "user_id", limit)
    if found := record_files(path, _OWNED, None):
        log = _nested(found[0], "items", ("item_id", "item_name"), limit, _owned)
        events, rows = complete(log.frame.drop("title"), log.malformed, timed=False)
        named = log.frame.select("item", "title").unique(maintain_order=True).cast(pl.String)
        named = named.filter(has_text("title")).unique("item", keep="first", maintain_order=True)
        frame = item_frame(named["item"], named["title"], pl.DataFrame())
        columns = {"user": "user_id", "item": "item_id", "timestamp": None, "title": "item_name"}
        return make_log(log.path.name.split(".")[0], "steam", [log], events, frame, rows=rows, columns=columns)
    raise InputError(
        f"{source}: no log of Steam, whose records have {', '.join(sorted(_REVIEWS))}, or reviews or items"
    )


def _nested(path: Path, name: str, fields: tuple[str, ...], limit: int | None, take: Take) -> Lines:
    """Read a line a user, with a list of records, and keep of each of these what `take` makes; no list is malformed."""
    inner = pl.List(pl.Struct(dict.fromkeys(fields, pl.String)))
    without = 0

    def records(part: pl.DataFrame) -> pl.DataFrame:
        nonlocal without
        without += part[name].null_count()
        return take(part.filter(pl.col(name).list.len() > 0).explode(name).unnest(name))

    log = read_records(path, {"user_id": pl.String, name: inner}, limit, records)
    malformed = log.malformed + without
    return replace(log, malformed=malformed, facts=log.facts | {"malformed": malformed})


def _posted(part: pl.DataFrame) -> pl.DataFrame:
    return event_frame(part["user_id"], part["item_id"], dates(part["posted"], "Posted %B %d, %Y."))


def _owned(part: pl.DataFrame) -> pl.DataFrame:
    return event_frame(part["user_id"], part["item_id"], None).with_columns(part["item_name"].alias("title"))


def _reviews(part: pl.DataFrame) -> pl.DataFrame:
    return event_frame(part["username"], part["product_id"], dates(part["date"], "%Y-%m-%d"))


def _log(log: Lines, games: Path, events: pl.DataFrame, user: str, limit: int | None) -> Log:
    table = read_records(games, _GAMES, limit)
    titled = table.frame.with_columns(pl.coalesce(pl.col("title", "app_name")), pl.col("genres").list.join(", "))
    frame = item_frame(titled["id"], titled["title"], titled.select("release_date", "developer", "genres"))
    events, rows = complete(events, log.malformed)
    item, time = ("product_id", "date") if user == "username" else ("item_id", "posted")
    columns = {"user": user, "item": item, "timestamp": time, "title": "title"}
    return make_log(log.path.name.split(".")[0], "steam", [log, table], events, frame, rows=rows, columns=columns)
