"""Measure what a RUN recommends: ranks, metrics, how sure they are, and a report that compares RUNs.

`evaluate` ranks the whole catalogue for a split's targets, measures the history's effect, and writes what came out into
the RUN; `rank_candidates` ranks within given or drawn lists instead; `compare` reads evaluated RUNs and writes
summary.json and report.html.
"""

from cftrec.evaluation.candidates import CandidateRanks, rank_candidates
from cftrec.evaluation.compare import compare
from cftrec.evaluation.effects import Effects, measure_effects
from cftrec.evaluation.evaluate import Evaluation, evaluate
from cftrec.evaluation.measures import ALL_METRICS, Measures, measure
from cftrec.evaluation.metrics import METRICS, means, per_target
from cftrec.evaluation.popularity import Popular, rank_by_popularity
from cftrec.evaluation.significance import PairedTest, intervals, paired_test, resample, resampled_means, sign_flip_p
from cftrec.evaluation.slices import evaluation_table, slices

__all__ = [
    "ALL_METRICS",
    "METRICS",
    "CandidateRanks",
    "Effects",
    "Evaluation",
    "Measures",
    "PairedTest",
    "Popular",
    "compare",
    "evaluate",
    "evaluation_table",
    "intervals",
    "means",
    "measure",
    "measure_effects",
    "paired_test",
    "per_target",
    "rank_by_popularity",
    "rank_candidates",
    "resample",
    "resampled_means",
    "sign_flip_p",
    "slices",
]
