"""Data: public formats of logs, their preparation in accounted steps, and the Dataset on disk."""

from cftrec.data.again import already_prepared
from cftrec.data.dataset import SPLITS, Dataset
from cftrec.data.options import PROTOCOLS, PrepareOptions
from cftrec.data.preparation import prepare

__all__ = ["PROTOCOLS", "SPLITS", "Dataset", "PrepareOptions", "already_prepared", "prepare"]
