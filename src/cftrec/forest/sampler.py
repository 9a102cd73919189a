"""The order of training samples: a pure function of seed and epoch that keeps samples which share a trunk together."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


def epoch_order(groups: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Shuffle whole groups; within a group samples keep their order.

    Args:
        groups: int64 [N], the group of each sample (a user, a window, or the sample itself).
        seed: any non-negative integer.
        epoch: counts from 0.

    Returns:
        int64 [N], a permutation that depends on nothing else.
    """
    _, inverse = np.unique(groups, return_inverse=True)
    ranks = np.random.default_rng([seed, epoch]).permutation(int(inverse.max(initial=-1)) + 1)
    return np.argsort(ranks[inverse], kind="stable")


class StepSampler(Sampler[int]):
    """A torch sampler over `epoch_order`; consecutive samples make a step.

    Args:
        groups: as for `epoch_order`.
        seed: as for `epoch_order`.
        multiple: an epoch's length is a multiple of this; what is missing is -1, which stands for no sample.
    """

    def __init__(self, groups: NDArray[np.int64], seed: int, multiple: int = 1) -> None:
        self.groups, self.seed, self.epoch = groups, seed, 0
        self.missing = -len(groups) % multiple

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of samples, with those that are missing."""
        return len(self.groups) + self.missing

    def __iter__(self) -> Iterator[int]:
        """Go through an epoch."""
        return iter(epoch_order(self.groups, self.seed, self.epoch).tolist() + [-1] * self.missing)
