"""The prefix forest: every distinct prefix of a step's sequences is computed once."""

from cftrec.forest.build import Forest, build_forest
from cftrec.forest.rows import Row, cut_rows, pack_passes, single_rows
from cftrec.forest.sampler import StepSampler

__all__ = ["Forest", "Row", "StepSampler", "build_forest", "cut_rows", "pack_passes", "single_rows"]
