"""What an evaluation asks of what it evaluates; `Recommender` is one."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cftrec.decoding import Prior
from cftrec.ragged import Ragged

Items = NDArray[np.integer]


class Found(Protocol):
    """What a search returns: int [B, k] items padded with -1, float [B, k] scores, bool [B] exact."""

    @property
    def items(self) -> NDArray[np.integer]: ...  # noqa: D102
    @property
    def scores(self) -> NDArray[np.floating]: ...  # noqa: D102
    @property
    def exact(self) -> NDArray[np.bool_]: ...  # noqa: D102


class ItemIds(Protocol):
    """The part of a catalogue that an evaluation reads."""

    @property
    def item_ids(self) -> list[str]: ...  # noqa: D102


class Ranker(Protocol):
    """What is evaluated: a `Recommender`, which is also a `Scorer`, a baseline, or lists that stand already."""

    @property
    def catalogue(self) -> ItemIds: ...  # noqa: D102
    @property
    def counts(self) -> NDArray[np.integer]: ...  # noqa: D102
    @property
    def run_name(self) -> str: ...  # noqa: D102

    def search(self, histories: list[Items], k: int, keep: list[int] | None = None) -> Found:
        """Return the best k items for each history, its items left out except keep[b] (-1: none kept)."""


@runtime_checkable
class Scorer(Ranker, Protocol):
    """A ranker that knows log p of given items, too; of others, which only rank, no effect is measured."""

    def log_probs(
        self, histories: Sequence[Items], items: Sequence[ArrayLike], softmax: str | None = None
    ) -> list[Ragged]:
        """Return for each history log p of each token of its items, a run an item (nats)."""

    def prior(self, name: str = "counts") -> Prior:
        """Return a prior by name."""
