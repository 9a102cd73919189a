"""From checked requests to a RUN's answers: the one place where serving calls the recommender."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from math import ceil
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from cftrec.decoding.explanation import Explanation
from cftrec.decoding.guided import TOP
from cftrec.recommender import BATCH, Items, Recommender
from cftrec.serving.runs import AT_ONCE, NOBODY, Served, check_time

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Wish:
    """One user's request, items as indices.

    Attributes:
        history: int64, oldest first.
        left_out: int64, what must not be recommended.
        allowed: int64, the only items to recommend, or None: all.
        k: items wanted.
        gamma: weight of the effect.
        prior: what the effect is measured against.
        without_history: whether the prior's own best items are wanted, too.
        deadline: by `perf_counter`, when nobody waits for the answer any more (seconds).
    """

    history: Items
    left_out: Items
    allowed: Items | None
    k: int
    gamma: float
    prior: str
    without_history: bool
    deadline: float

    @property
    def depth(self) -> int:
        """How many of the likeliest items must be known."""
        return max(self.k, TOP) if self.gamma else self.k

    @property
    def asks_nobody(self) -> bool:
        """Whether the model is searched for what it expects of anyone."""
        return self.without_history and self.prior != "counts"


@dataclass(frozen=True)
class Ranked:
    """One user's answer, best first: int [n] items and float64 [n] numbers (nats), n at most k.

    Attributes:
        exact: whether it is proven that no other item is likelier, of `expected` too.
        expected: the prior's best items and their log prior, or None.
    """

    items: Items
    score: Floats
    log_p: Floats
    effect: Floats
    exact: bool
    expected: tuple[Items, Floats] | None


@dataclass(frozen=True)
class _Found:
    """The likeliest items of one user, best first, with their log p (nats), and whether that is proven."""

    items: Items
    log_p: Floats
    exact: bool


def recommend(served: Served, requests: list[list[Wish]]) -> list[list[Ranked]]:
    """Answer requests, whose wishes all have one depth, in time for the first deadline.

    Raises:
        Late: all deadlines were over before what comes after the searches was done.
    """
    wishes = list(chain.from_iterable(requests))
    found, free = _searches(served.recommender, wishes)
    last = max(wish.deadline for wish in wishes)
    likely = _catalogue_log_p(served, wishes, found, last)
    for prior in {wish.prior for wish in wishes}:  # the model is asked once for all users
        asked = [one.items for wish, one in zip(wishes, found, strict=True) if wish.prior == prior]
        served.log_prior(prior, np.concatenate(asked), last)
    ranked = iter([_ranked(served, *parts) for parts in zip(wishes, found, likely, free, strict=True)])
    return [list(islice(ranked, len(request))) for request in requests]


def explain(served: Served, history: Items, item: int, prior: str, shapley: int) -> Explanation:
    """Explain one item; see `Recommender.explain`."""
    return served.recommender.explain_item(history, item, prior, shapley)


def _searches(recommender: Recommender, wishes: Sequence[Wish]) -> tuple[list[_Found], list[_Found | None]]:
    """Find the likeliest items after each wish's history and, where it asks, those that the model expects of anyone.

    All searches together end after half of the time until the first deadline, with what they have found.
    """
    asking = [wish for wish in wishes if wish.asks_nobody]
    now = perf_counter()
    end = now + (min(wish.deadline for wish in wishes) - now) / 2
    shares = _shares(end, ceil(len(wishes) / BATCH) + ceil(len(asking) / BATCH))
    found = _search(recommender, wishes, [wish.history for wish in wishes], wishes[0].depth, shares)
    prior = replace(recommender, softmax="catalogue")  # whatever the RUN recommends by
    most = max((wish.k for wish in asking), default=1)
    free = iter(_search(prior, asking, [NOBODY] * len(asking), most, shares))
    return found, [next(free) if wish.asks_nobody else None for wish in wishes]


def _shares(end: float, count: int) -> Iterator[float]:
    """Yield the milliseconds of one search after another of `count`: an equal share of what is left until `end`."""
    for left in range(count, 0, -1):
        yield max(0.0, 1000 * (end - perf_counter()) / left)


def _search(
    recommender: Recommender, wishes: Sequence[Wish], histories: Sequence[Items], k: int, shares: Iterator[float]
) -> list[_Found]:
    """Find the k likeliest items of each wish after its history, in as few searches as may be."""
    found = []
    for begin in range(0, len(wishes), BATCH):
        part = wishes[begin : begin + BATCH]
        result = recommender.search(
            histories[begin : begin + BATCH],
            min(k, len(recommender.catalogue)),
            keep_history=True,
            deny=[wish.left_out for wish in part],
            allow=[wish.allowed for wish in part],
            budget_ms=next(shares),
        )
        for items, scores, exact in zip(result.items, result.scores, result.exact, strict=True):
            there = items >= 0
            found.append(_Found(items[there].astype(np.int64), scores[there], bool(exact)))
    return found


def _catalogue_log_p(served: Served, wishes: list[Wish], found: list[_Found], deadline: float) -> list[Floats]:
    """Return log p of each user's items under the catalogue softmax, under which effects are measured."""
    if served.recommender.softmax == "catalogue":
        return [one.log_p for one in found]
    likely: list[Floats] = []
    titles = np.cumsum([len(one.items) for one in found])
    for part in np.split(np.arange(len(wishes)), np.flatnonzero(np.diff(titles // AT_ONCE)) + 1):
        check_time(deadline)
        histories, items = [wishes[user].history for user in part], [found[user].items for user in part]
        runs = served.recommender.log_probs(histories, items, softmax="catalogue")
        likely += [np.array([run.sum() for run in user.split()]) for user in runs]
    return likely


def _ranked(served: Served, wish: Wish, found: _Found, likely: Floats, free: _Found | None) -> Ranked:
    """Put one user's answer together; `free` is what the model expects of anyone, None where it was not asked."""
    effect = likely - served.log_prior(wish.prior, found.items)
    score = found.log_p + wish.gamma * effect
    order = np.lexsort((found.items, -score))[: wish.k]
    expected = None
    if free is not None:
        expected = free.items[: wish.k], free.log_p[: wish.k]
    elif wish.without_history:
        expected = served.most_frequent(wish.k, wish.left_out, wish.allowed)
    return Ranked(
        items=found.items[order],
        score=score[order],
        log_p=found.log_p[order],
        effect=effect[order],
        exact=found.exact and (free is None or free.exact),
        expected=expected,
    )
