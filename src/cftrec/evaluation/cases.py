"""Which targets are evaluated, and what stands before each, in the RUN's own item indices."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cftrec.data.dataset import SPLITS, Dataset
from cftrec.errors import InputError
from cftrec.evaluation.ranker import Ranker

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cases:
    """n targets.

    Attributes:
        positions: int64 [n], event positions in the dataset.
        users: the user of each.
        target_ids: the item id of each.
        targets: int64 [n], item index; -1: the RUN does not know the item.
        histories: n arrays int64, oldest first; items that the RUN does not know are dropped.
        history_lengths: int64 [n], events before each target, nothing dropped.
    """

    positions: Ints
    users: list[str]
    target_ids: list[str]
    targets: Ints
    histories: list[Ints]
    history_lengths: Ints

    def __len__(self) -> int:
        """Return the number of targets."""
        return len(self.positions)

    def __getitem__(self, chosen: Ints) -> Self:
        """Return some of the targets, by their numbers."""
        return type(self)(
            self.positions[chosen],
            [self.users[case] for case in chosen],
            [self.target_ids[case] for case in chosen],
            self.targets[chosen],
            [self.histories[case] for case in chosen],
            self.history_lengths[chosen],
        )

    def known(self, most: int | None = None) -> Self:
        """Return the targets that the RUN knows, of `most` (None: all) evenly spaced ones."""
        count = len(self)
        spaced = np.linspace(0, count - 1, min(count, count if most is None else most)).round().astype(np.int64)
        return self[spaced[self.targets[spaced] >= 0]]


def split_targets(dataset: Dataset, split: str, sample: int | None = None, seed: int = 0) -> Ints:
    """Return the event positions of a split's targets, or of `sample` random ones (drawn by `seed`), ascending.

    Raises:
        InputError: an unknown split, one without targets, a seed below 0, or a sample that is below 1 or more than
            there are.
    """
    if split not in SPLITS:
        raise InputError(f"--split {split}: unknown split; choose one of {', '.join(SPLITS)}")
    positions = dataset.targets(split)
    if not len(positions):
        raise InputError(f"the dataset has no target in its {split} split; evaluate another split or prepare it again")
    if seed < 0:
        raise InputError(f"--seed {seed}: must be 0 or more")
    if sample is None:
        return positions
    if not 1 <= sample <= len(positions):
        raise InputError(f"--sample {sample}: must be from 1 to {len(positions):,}, the targets of the {split} split")
    return np.sort(np.random.default_rng(seed).choice(positions, sample, replace=False))


def cases_of(recommender: Ranker, dataset: Dataset, positions: Ints) -> Cases:
    """Find targets and their histories in the RUN's catalogue by item id.

    Args:
        recommender: the RUN.
        dataset: the log.
        positions: int64 [n], event positions of the targets; n is at least 1.

    Raises:
        InputError: the RUN knows none of the targets.
    """
    item_ids = dataset.items["item_id"].to_list()
    to_run = run_index(recommender, item_ids)
    mapped = [to_run[dataset.history(int(position))] for position in positions]
    target_items = dataset.events[positions]
    if (to_run[target_items] < 0).all():
        raise InputError(
            "the RUN knows none of the dataset's targets by item id; evaluate it on the data it is made for"
        )
    return Cases(
        positions=positions,
        users=dataset.users.gather(dataset.user_of(positions)).cast(pl.String).to_list(),
        target_ids=[item_ids[item] for item in target_items],
        targets=to_run[target_items],
        histories=[history[history >= 0] for history in mapped],
        history_lengths=np.array([history.size for history in mapped], dtype=np.int64),
    )


def run_index(recommender: Ranker, item_ids: list[str]) -> Ints:
    """Return the RUN's index of each item id, int64; -1 where it does not know the item."""
    known = {item_id: index for index, item_id in enumerate(recommender.catalogue.item_ids)}
    return np.array([known.get(item_id, -1) for item_id in item_ids], dtype=np.int64)
