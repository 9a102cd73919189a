"""Decoding: the exact best items of the catalogue, log p of given ones, brute force to check both, and priors."""

from cftrec.decoding.paths import item_log_probs
from cftrec.decoding.priors import PRIORS, Prior, counts_prior
from cftrec.decoding.rules import Cap
from cftrec.decoding.score import sequence_log_probs
from cftrec.decoding.search import SearchResult, search

__all__ = [
    "PRIORS",
    "Cap",
    "Prior",
    "SearchResult",
    "counts_prior",
    "item_log_probs",
    "search",
    "sequence_log_probs",
]
