"""Measure what a RUN recommends: ranks, metrics, how sure they are, and a report that compares RUNs.

`evaluate` ranks the whole catalogue for a split's targets, measures the history's effect, and writes what came out into
the RUN; `rank_candidates` ranks within given or drawn lists instead; `compare` reads evaluated RUNs and writes
summary.json and report.html.
"""

from cftrec.evaluation.candidates import CandidateRanks, rank_candidates
from cftrec.evaluation.compare import compare
from cftrec.evaluation.effects import Effects, measure_effects
from cftrec.evaluation.evaluate import Evaluation, evaluate
from cftrec.evaluation.metrics import METRICS, means, per_target
from cftrec.evaluation.popularity import Popular, rank_by_popularity
from cftrec.evaluation.significance import PairedTest, intervals, paired_test, paired_tests, resampled_means

__all__ = [
    "METRICS",
    "CandidateRanks",
    "Effects",
    "Evaluation",
    "PairedTest",
    "Popular",
    "compare",
    "evaluate",
    "intervals",
    "means",
    "measure_effects",
    "paired_test",
    "paired_tests",
    "per_target",
    "rank_by_popularity",
    "rank_candidates",
    "resampled_means",
]
