"""Effect-guided ranking: the likeliest items, ordered anew by how much of it the history explains."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cftrec.decoding.priors import Prior
from cftrec.decoding.search import SearchResult
from cftrec.errors import InputError

Floats = NDArray[np.float64]

TOP = 200
"""Likeliest items that are ordered anew."""


@dataclass(frozen=True)
class GuidedResult:
    """The best items of B histories; score = log_p + gamma x effect.

    Attributes:
        items: int32 [B, k], best first, equal scores by item order; -1 where fewer than k items may be recommended.
        scores: float64 [B, k]; -inf where there is no item.
        exact: bool [B], whether the search proved that the items ordered anew are the likeliest.
        expanded: int64 [B], beginnings expanded.
        log_p: float64 [B, k], log p(item | history) under the RUN's softmax (nats).
        effect: float64 [B, k], log p(item | history) - log prior(item), both under the catalogue softmax (nats).
        bound: float64 [B], of the search (`SearchResult`).
    """

    items: NDArray[np.int32]
    scores: Floats
    exact: NDArray[np.bool_]
    expanded: NDArray[np.int64]
    log_p: Floats
    effect: Floats
    bound: Floats


def guided(found: SearchResult, log_p: Floats, prior: Prior, gamma: float, k: int) -> GuidedResult:
    """Order the items that a search has found by log p + gamma x effect and keep the k best.

    Args:
        found: the likeliest M items of each history.
        log_p: float64 [B, M], their log p under the catalogue softmax; what stands where there is no item is ignored.
        prior: what is expected of anyone.
        gamma: weight of the effect, 0 or more; 0 changes nothing.
        k: items kept, at most M.

    Raises:
        InputError: a gamma below 0, or so large that scores overflow.
    """
    if not 0 <= gamma < np.inf:
        raise InputError(f"gamma {gamma}: must be a number from 0 (likeliest first) on")
    there = found.items >= 0
    effect = np.where(there, log_p, 0) - np.where(there, prior.items[found.items], 0)
    if gamma > np.finfo(np.float64).max / 1e6:  # effects are nats, thousands at most
        raise InputError(f"gamma {gamma:g}: is too large; from about 1e6 on the effect alone decides")
    scores = found.scores + gamma * effect
    order = np.lexsort((found.items, -scores))[:, :k]
    parts = (np.take_along_axis(part, order, 1) for part in (found.items, scores, found.scores, effect))
    items, score, likely, effect = parts
    return GuidedResult(items, score, found.exact, found.expanded, likely, effect, found.bound)
