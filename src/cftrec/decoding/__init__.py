"""Decoding: the exact best items of the catalogue, and brute-force scores to check them against."""

from cftrec.decoding.score import sequence_log_probs
from cftrec.decoding.search import SearchResult, search

__all__ = ["SearchResult", "search", "sequence_log_probs"]
