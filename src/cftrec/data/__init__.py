"""Data: public formats of logs, their preparation in accounted steps, and the Dataset on disk."""

from cftrec.data.dataset import SPLITS, Dataset
from cftrec.data.preparation import PrepareOptions, prepare

__all__ = ["SPLITS", "Dataset", "PrepareOptions", "prepare"]
