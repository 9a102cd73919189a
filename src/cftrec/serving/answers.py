"""From checked requests to a RUN's answers: the one place where serving calls the recommender."""

from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from cftrec.decoding import SearchResult
from cftrec.decoding.explanation import Explanation
from cftrec.decoding.guided import TOP
from cftrec.recommender import Items
from cftrec.serving.runs import Served


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
    """

    history: Items
    left_out: Items
    allowed: Items | None
    k: int
    gamma: float
    prior: str
    without_history: bool

    @property
    def depth(self) -> int:
        """How many of the likeliest items must be known."""
        return max(self.k, TOP) if self.gamma else self.k


@dataclass(frozen=True)
class Ranked:
    """One user's answer, best first: int [n] items and float64 [n] numbers (nats), n at most k.

    Attributes:
        expected: the prior's best items and their log prior, or None.
    """

    items: Items
    score: NDArray[np.float64]
    log_p: NDArray[np.float64]
    effect: NDArray[np.float64]
    exact: bool
    expected: tuple[Items, NDArray[np.float64]] | None


def recommend(served: Served, budget_ms: float, requests: list[list[Wish]]) -> list[list[Ranked]]:
    """Answer requests, whose wishes all have one depth, by one search, which ends after `budget_ms` at the latest."""
    recommender, wishes = served.recommender, list(chain.from_iterable(requests))
    found = recommender.search(
        [wish.history for wish in wishes],
        min(wishes[0].depth, len(recommender.catalogue)),
        keep_history=True,
        deny=[wish.left_out for wish in wishes],
        allow=[wish.allowed for wish in wishes],
        budget_ms=budget_ms,
    )
    likely = _catalogue_log_p(served, wishes, found)
    ranked = iter([_ranked(served, wish, found, row, likely[row]) for row, wish in enumerate(wishes)])
    return [list(islice(ranked, len(request))) for request in requests]


def explain(served: Served, history: Items, item: int, prior: str, shapley: int) -> Explanation:
    """Explain one item; see `Recommender.explain`."""
    return served.recommender.explain_item(history, item, prior, shapley)


def _catalogue_log_p(served: Served, wishes: list[Wish], found: SearchResult) -> list[NDArray[np.float64]]:
    """Return log p of each user's items under the catalogue softmax, under which effects are measured."""
    items = [row[row >= 0] for row in found.items]
    if served.recommender.softmax == "catalogue":
        return [scores[: len(row)] for row, scores in zip(items, found.scores, strict=True)]
    runs = served.recommender.log_probs([wish.history for wish in wishes], items, softmax="catalogue")
    return [np.array([run.sum() for run in user.split()]) for user in runs]


def _ranked(served: Served, wish: Wish, found: SearchResult, row: int, likely: NDArray[np.float64]) -> Ranked:
    items = found.items[row, : len(likely)].astype(np.int64)
    log_p = found.scores[row, : len(likely)]
    effect = likely - served.log_prior(wish.prior, items)
    score = log_p + wish.gamma * effect
    order = np.lexsort((items, -score))[: wish.k]
    return Ranked(
        items=items[order],
        score=score[order],
        log_p=log_p[order],
        effect=effect[order],
        exact=bool(found.exact[row]),
        expected=served.expected(wish.prior, wish.k, wish.left_out, wish.allowed) if wish.without_history else None,
    )
