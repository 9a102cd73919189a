"""The prefix forest: every distinct prefix of a step's sequences is computed once."""

from cftrec.forest.build import Forest, build_forest
from cftrec.forest.sampler import StepSampler

__all__ = ["Forest", "StepSampler", "build_forest"]
