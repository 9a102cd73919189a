"""A planted world: a log drawn from a law of next items that is known, so that every estimate has its truth.

Items have one or two genres, which their titles name, and a popularity prior pi (Zipf). A user's next item y after a
history h follows

    p(y | h)  ~  pi(y) ((1 - s) + s sum_g a_g(h) b_g(y))
    b_g(y) = [y has g] / (genres of y) / P(g),   P(g) = sum_y pi(y) [y has g] / (genres of y)

where a_g(h) is the share of genre g in the last `recent` items of h and s the strength: with probability s a user takes
a random recent item, a random genre of it, and an item of that genre by popularity; otherwise any item by popularity.
Items that the user had are never taken again (the law is renormalised), unless the world has repeats.

The truth of an event is its log p(y | h), log p(y), and their difference, the history's effect, whose mean is the
mutual information of history and next item. With repeats p(y) is pi itself, so that s = 0 has no effect at all.
Without, p(y) is the mean of p(y | h) over all events of the log, and s = 0 keeps the effect of what users already had.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cftrec.data.dataset import SPLITS, TEST, TRAIN, VALIDATION, Dataset
from cftrec.errors import InputError

CUTOFFS = (1, 5, 10, 20)
_CELLS = 4_000_000  # events times items, or times earlier items, held at once
_LEAST_LEFT = 1e-4  # of popularity, that the least popular items must have: old items are drawn again and again
_GENRES, _ADJECTIVES, _NOUNS = (
    words.split()
    for words in (
        "Western Comedy Horror Mystery Romance Musical War Crime Fantasy Sports Adventure Documentary Thriller Drama "
        "Animation Disaster Espionage Satire Pirate Robot",
        "Silent Golden Broken Hidden Last Crimson Frozen Burning Lost Hollow Distant Bitter Gentle Iron Paper Velvet "
        "Wandering Sleeping Endless Forgotten Bright Pale Restless Second Secret Stolen Tall Quiet Wild Young",
        "Harbor River Mountain Garden Mirror Lantern Bridge Winter Island Letter Tower Orchard Station Valley Engine "
        "Market Desert Window Painter Sailor Teacher Stranger Sister Summer Forest Clock Storm Road Castle Circus",
    )
)

_ROUNDING = 1e-9  # laws that differ by less, as a share, are equal but for rounding, which differs by machine

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WorldOptions:
    """What a planted world is like.

    Args:
        items: items of the catalogue, 50 to 100,000.
        users: users, at least 1.
        length: events of a user, at least 4 and at most half the items; the last is the test, the one before it the validation target.
        genres: genres that titles name, 1 to 20.
        two_genres: share of the items that have two genres, 0 to 1.
        strength: s, the share of the law that the history decides, 0 (none) to 0.99.
        recent: last items of a history that count, at least 1.
        repeats: users may take an item again; evaluate such a world with the history kept in the lists.
        skew: exponent of the popularity prior, pi(y) ~ (5 + rank of y)^-skew; 0 makes all items equally popular.
        seed: of the items and the log.
    """  # noqa: E501 - the command line shows each entry as its help, a line each

    items: int = 200
    users: int = 2000
    length: int = 20
    genres: int = 8
    two_genres: float = 0.3
    strength: float = 0.9
    recent: int = 3
    repeats: bool = False
    skew: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `InputError` for a value that is out of its range."""
        bounds: dict[str, tuple[float, float]] = {
            "items": (50, 100_000),
            "users": (1, 10_000_000),
            "length": (4, self.items // 2),
            "genres": (1, len(_GENRES)),
            "two_genres": (0, 1),
            "strength": (0, 0.99),  # at 1 a user who had all items of the recent genres would have no next one
            "recent": (1, self.length),
            "skew": (0, 5),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in bounds.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise InputError(f"option {name}: {value} is out of range; give {low:,} to {high:,}")
        weights = _weights(np.arange(self.items), self.skew)
        if not self.repeats and weights[self.length :].sum() < _LEAST_LEFT * weights.sum():
            raise InputError(
                f"option skew: at {self.skew} a user who has taken {self.length:,} items has taken all that anybody "
                "takes; lower skew or length, or give repeats"
            )


@dataclass(frozen=True, eq=False)
class World:
    """A drawn log and the law behind it.

    Attributes:
        options: what it was made of.
        titles: [I], each names its genres; all different.
        prior: float64 [I], pi, sums to 1.
        genres: bool [I, G], which genres an item has.
        events: int64 [U, T], items of each user, oldest first.
    """

    options: WorldOptions
    titles: list[str]
    prior: _Floats
    genres: npt.NDArray[np.bool_]
    events: _Ints

    @cached_property
    def shares(self) -> _Floats:
        """Return float64 [I, G]: an item's share in each of its genres, 1 in one or 1/2 in two."""
        return self.genres / self.genres.sum(axis=1, keepdims=True)

    @cached_property
    def lifts(self) -> _Floats:
        """Return b, float64 [I, G]: how much likelier an item is where its genre is wanted than by popularity."""
        return self.shares / np.maximum(self.prior @ self.shares, np.finfo(float).tiny)

    def wanted(self, histories: _Ints) -> _Floats:
        """Return s a_g(h), float64 [n, G], of histories int64 [n, t] oldest first; zeros where t is 0 (s is then 0)."""
        last = histories[:, -self.options.recent :]
        if not last.shape[1]:
            return np.zeros((len(histories), self.genres.shape[1]))
        return self.options.strength * self.shares[last].mean(axis=1)

    def masses(self, wanted: _Floats, items: _Ints) -> _Floats:
        """Return float64 [n, m]: pi(y) ((1 - s) + s sum_g a_g b_g(y)) of items int64 [n, m], or [m] for all n."""
        lifts = self.lifts[items]
        found = wanted @ lifts.T if items.ndim == 1 else np.einsum("ng,nmg->nm", wanted, lifts)
        return self.prior[items] * (1 - wanted.sum(axis=1, keepdims=True) + found)

    def left(self, wanted: _Floats, seen: _Ints) -> _Floats:
        """Return float64 [n]: the mass of the items that may come next."""
        return np.ones(len(seen)) if self.options.repeats else 1 - self.masses(wanted, seen).sum(axis=1)

    def laws(self, histories: npt.ArrayLike, items: _Ints | None = None) -> _Floats:
        """Return p(y | h), float64 [n, m].

        Args:
            histories: int64 [n, t] items, all of one length, oldest first.
            items: int64 [m], the items asked for, ascending; all of them by default.
        """
        seen = np.asarray(histories, dtype=np.int64)
        items = np.arange(len(self.prior)) if items is None else items
        wanted = self.wanted(seen)
        law = self.masses(wanted, items) / self.left(wanted, seen)[:, None]
        if not self.options.repeats:
            column = np.minimum(np.searchsorted(items, seen), len(items) - 1)
            row, place = np.nonzero(items[column] == seen)
            law[row, column[row, place]] = 0.0
        return law

    @cached_property
    def truth(self) -> pl.DataFrame:
        """Return a row an event, in the log's order: log_p = log p(y | h), log_prior = log p(y), and their effect."""
        log_p = np.empty(self.events.shape)
        marginal = np.zeros(len(self.prior))
        for step in range(self.events.shape[1]):
            for rows in _chunks(len(self.events), (step + 1) * self.genres.shape[1]):
                seen, target = self.events[rows, :step], self.events[rows, step]
                wanted = self.wanted(seen)
                scale = 1 / self.left(wanted, seen)
                log_p[rows, step] = np.log(self.masses(wanted, target[:, None])[:, 0] * scale)
                marginal += self._summed(wanted, scale, seen)
        log_prior = np.log(self.prior if self.options.repeats else marginal / self.events.size)[self.events]
        columns = {"log_p": log_p, "log_prior": log_prior, "effect": log_p - log_prior}
        return pl.DataFrame({name: value.ravel() for name, value in columns.items()})

    def _summed(self, wanted: _Floats, scale: _Floats, seen: _Ints) -> _Floats:
        """Return the sum of the laws of some histories, float64 [I], without forming any."""
        total = self.prior * (scale @ (1 - wanted.sum(axis=1)) + self.lifts @ (scale @ wanted))
        had = self.masses(wanted, seen) * scale[:, None]
        return total - np.bincount(seen.ravel(), had.ravel(), minlength=len(total))

    def optimum(self, place: int) -> dict[str, float]:
        """Return the expected metrics of the best possible ranking of each user's event at a place.

        Args:
            place: index into a user's events, -1 the last; the history is what comes before it.

        Returns:
            "NDCG@k" and "HR@k" for k of 1, 5, 10, 20, means over users.
        """
        most = max(CUTOFFS)
        top = self._leaders(most + self.events.shape[1])
        totals = np.zeros(most)
        for rows in _chunks(len(self.events), len(top)):
            law = self.laws(self.events[rows, :place], top)
            best = np.partition(law, law.shape[1] - most, axis=1)[:, -most:]
            totals += np.sort(best, axis=1)[:, ::-1].sum(axis=0)
        chances = totals / len(self.events)
        gains = chances / np.log2(2 + np.arange(most))
        found = {f"NDCG@{k}": float(gains[:k].sum()) for k in CUTOFFS}
        return found | {f"HR@{k}": float(chances[:k].sum()) for k in CUTOFFS}

    def _leaders(self, count: int) -> _Ints:
        """Return the most popular items of every set of genres, ascending: within a set all laws keep their order."""
        _, group = np.unique(self.genres, axis=0, return_inverse=True)
        order = np.lexsort((-self.prior, group))
        place = np.arange(len(order)) - np.searchsorted(group[order], group[order])
        return np.sort(order[place < count])

    def optimal_ranks(self, place: int) -> _Ints:
        """Return where the best possible ranking puts each user's event at a place, int64 [U], from 1."""
        ranks = np.empty(len(self.events), dtype=np.int64)
        for rows in _chunks(len(self.events), len(self.prior)):
            law = self.laws(self.events[rows, :place])
            likely = law[np.arange(len(law)), self.events[rows, place]][:, None]
            ranks[rows] = 1 + (law > likely * (1 + _ROUNDING)).sum(axis=1)
        return ranks

    def dataset(self) -> Dataset:
        """Return the log as a Dataset, split leave-one-out; its manifest's `world` holds the truth in figures."""
        users, length = self.events.shape
        split = np.full((users, length), TRAIN, np.uint8)
        split[:, -2:] = VALIDATION, TEST
        genres = [" ".join(np.array(_GENRES[: row.size])[row]) for row in self.genres]
        ids = [f"i{item}" for item in range(len(self.titles))]
        return Dataset(
            items=pl.DataFrame({"item_id": ids, "title": self.titles, "genres": genres}),
            users=pl.Series("user_id", [f"u{user}" for user in range(users)]),
            offsets=np.arange(0, users * length + 1, length, dtype=np.int64),
            events=self.events.ravel().astype(np.int32),
            split=split.ravel(),
            timestamps=None,
            manifest=self.manifest(split.ravel()),
        )

    def manifest(self, split: npt.NDArray[np.uint8]) -> dict[str, Any]:
        """Return what the folder says of itself: options, counts, and the optimum and mean effect of each split."""
        counts = {"users": len(self.events), "items": len(self.titles), "events": self.events.size}
        effect = self.truth["effect"].to_numpy()
        places = {"validation": -2, "test": -1}
        world = {
            "optimum": {name: self.optimum(place) for name, place in places.items()},
            "mean_effect": {name: float(effect[split == code].mean()) for code, name in enumerate(SPLITS)},
        }
        return {
            "name": f"world of {len(self.titles):,} items, strength {self.options.strength:g}",
            "source": {"format": "world"},
            "options": asdict(self.options),
            "steps": [],
            "counts": counts,
            "split": {"rule": "leave-one-out"},
            "world": world,
        }

    def save(self, path: str | Path) -> dict[str, Any]:
        """Write the Dataset's folder with truth.parquet in it: log_p, log_prior and effect (nats) of every event.

        Returns:
            The dataset's manifest; its `world` holds the truth in figures.

        Raises:
            InputError: the folder is not empty or cannot be written.
        """
        dataset = self.dataset()
        dataset.save(path, {"truth": self.truth})
        return dataset.manifest


def make_world(options: WorldOptions | None = None) -> World:
    """Draw a world; equal options give equal worlds."""
    options = options or WorldOptions()
    rng = np.random.default_rng(options.seed)
    weights = _weights(rng.permutation(options.items), options.skew)
    genres = _draw_genres(options, rng)
    empty = np.empty((options.users, options.length), dtype=np.int64)
    world = World(options, _titles(genres, rng), weights / weights.sum(), genres, empty)
    for step in range(options.length):
        _draw_step(world, step, rng)
    return world


def _weights(rank: _Ints, skew: float) -> _Floats:
    return np.power(5.0 + rank, -skew)


def _draw_genres(options: WorldOptions, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Give each item one genre, a share of them a second one; bool [I, G]."""
    wanted = rng.random((options.items, options.genres)).argsort(axis=1)
    second = rng.random(options.items) < options.two_genres
    genres = np.zeros((options.items, options.genres), dtype=bool)
    genres[np.arange(options.items), wanted[:, 0]] = True
    genres[second, wanted[second, min(1, options.genres - 1)]] = True
    return genres


def _titles(genres: npt.NDArray[np.bool_], rng: np.random.Generator) -> list[str]:
    """Name the items: genres, then an adjective and a noun, and a number where all pairs are taken."""
    pairs = len(_ADJECTIVES) * len(_NOUNS)
    order = rng.permutation(pairs)
    titles = []
    for item, row in enumerate(genres):
        adjective, noun = divmod(int(order[item % pairs]), len(_NOUNS))
        kind = " ".join(name for name, has in zip(_GENRES, row, strict=False) if has)
        part = f" {1 + item // pairs}" if item >= pairs else ""
        titles.append(f"{kind}: {_ADJECTIVES[adjective]} {_NOUNS[noun]}{part}")
    return titles


def _draw_step(world: World, step: int, rng: np.random.Generator) -> None:
    """Draw every user's next item, again where it is an old one and may not come again."""
    by_item, by_genre = np.cumsum(world.prior), np.cumsum(world.prior[:, None] * world.shares, axis=0)
    recent_shares = np.cumsum(world.shares, axis=1)
    users = np.arange(len(world.events))
    while users.size:
        seen = world.events[users, :step]
        drawn = _pick(by_item, rng.random(users.size))
        by_history = rng.random(users.size) < (world.options.strength if step else 0.0)
        if step:
            place = rng.integers(max(0, step - world.options.recent), step, users.size)
            share = recent_shares[world.events[users, place]]
            genre = (share <= rng.random((users.size, 1))).sum(axis=1)
            for one in np.unique(genre[by_history]):
                chosen = by_history & (genre == one)
                drawn[chosen] = _pick(by_genre[:, one], rng.random(int(chosen.sum())))
        world.events[users, step] = drawn
        users = users[(seen == drawn[:, None]).any(axis=1) & (not world.options.repeats)]


def _pick(cumulative: _Floats, uniform: _Floats) -> _Ints:
    """Return the items at which cumulative weights float64 [I] pass uniform shares of their sum."""
    found = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
    return np.minimum(found, len(cumulative) - 1)


def _chunks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of rows that hold at most `_CELLS` cells, or one row."""
    size = max(1, _CELLS // width)
    return (slice(begin, begin + size) for begin in range(0, rows, size))
