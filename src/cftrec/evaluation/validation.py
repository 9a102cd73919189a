"""Ranking metrics of a model in training, exactly those that its RUN would have."""

import numpy as np
from numpy.typing import NDArray

from cftrec.evaluation.evaluate import rank_targets
from cftrec.evaluation.metrics import per_target
from cftrec.recommender import Recommender
from cftrec.training import CFTTrainer
from cftrec.training.config import RANKED


def ranking_metrics(trainer: CFTTrainer, positions: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Return each target's NDCG@10; give it to `CFTTrainer` or `train` as `measure`.

    Args:
        trainer: its model is in eval mode.
        positions: int64 [n], event positions of targets in the trainer's dataset; n may be 0.

    Returns:
        {"ndcg@10": float64 [n]}, ranked as by `evaluate`: exactly, among the whole catalogue, the history left out.
    """
    ranks = np.empty(0, dtype=np.int64)
    if len(positions):
        ranks = rank_targets(Recommender.from_trainer(trainer), trainer.data, positions)
    return {RANKED.removeprefix("eval_"): per_target(ranks)["NDCG@10"]}
