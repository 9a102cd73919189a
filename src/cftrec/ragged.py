"""Ragged arrays: many runs of numbers as one flat array, so that nothing loops over runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ragged:
    """N runs of numbers.

    Attributes:
        values: [sum of lengths], one run after another.
        lengths: int64 [N].
    """

    values: NDArray[Any]
    lengths: Ints

    @classmethod
    def of(cls, runs: "Ragged | Sequence[ArrayLike]") -> "Ragged":
        """Join runs of integers of any type into int64; what is ragged stays as it is."""
        if isinstance(runs, Ragged):
            return runs
        arrays = [np.asarray(run, dtype=np.int64).reshape(-1) for run in runs]
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        return cls(np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64), lengths)

    @cached_property
    def starts(self) -> Ints:
        """Where each run begins in `values`, int64 [N]."""
        return self.lengths.cumsum() - self.lengths

    def split(self) -> list[NDArray[Any]]:
        """Return the runs one by one, as views."""
        ends = self.lengths.cumsum().tolist()
        return [self.values[end - length : end] for end, length in zip(ends, self.lengths.tolist(), strict=True)]


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """Return start, start + 1, ... (`length` numbers) of each run, one run after another: int64 [sum of lengths]."""
    before = lengths.cumsum() - lengths
    found = (starts - before).repeat(lengths)
    found += np.arange(len(found))
    return found
