"""Which items a list may hold: each prompt's own allowed ones, and so many of a group at most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cftrec.ragged import Ragged
from cftrec.text.trie import Trie

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Cap:
    """At most `most` items of a group.

    Attributes:
        groups: int64 [I], each item's group; -1: it is in none.
        most: at least 1.
    """

    groups: Ints
    most: int


@dataclass(frozen=True)
class Allowed:
    """The items that may be found for each of B prompts, kept as the shorter list's places in the trie's order.

    Attributes:
        trie: the catalogue's.
        keys: int64, prompt * I + place (`Trie.places`) of each listed item, ascending.
        only: bool [B], whether the listed items are the allowed ones; elsewhere they are those that are not.
    """

    trie: Trie
    keys: Ints
    only: Bools

    @classmethod
    def of(
        cls,
        trie: Trie,
        prompts: int,
        excluded: Sequence[ArrayLike] | None,
        allowed: Sequence[ArrayLike | None] | None,
    ) -> "Allowed":
        """Take each prompt's excluded items out of its allowed ones, of all where it has no list."""
        size = len(trie.places)
        only, listed = np.zeros(prompts, dtype=bool), []
        for row in range(prompts):
            out = np.unique(np.asarray(excluded[row], dtype=np.int64)) if excluded else np.empty(0, dtype=np.int64)
            wanted = allowed[row] if allowed else None
            only[row] = wanted is not None
            items = out if wanted is None else np.setdiff1d(np.asarray(wanted, dtype=np.int64), out)
            listed.append(row * size + np.sort(trie.places[items].astype(np.int64)))
        return cls(trie, Ragged.of(listed).values, only)

    def under(self, row: Ints, node: Ints) -> Bools:
        """Say whether any allowed item of each prompt is under each trie node."""
        offsets = self.trie.terminal_offsets
        return self._count(row, offsets[node], offsets[self.trie.end[node]]) > 0

    def at(self, row: Ints, place: Ints) -> Bools:
        """Say whether each item, given by its place, is allowed for each prompt."""
        return self._count(row, place, place + 1) > 0

    def _count(self, row: Ints, begin: Ints, stop: Ints) -> Ints:
        """Return how many items in places begin:stop are allowed."""
        first = row * len(self.trie.places)
        listed = np.searchsorted(self.keys, first + stop) - np.searchsorted(self.keys, first + begin)
        return np.where(self.only[row], listed, stop - begin - listed)


def within_caps(row: Ints, item: Ints, caps: Sequence[Cap]) -> Bools:
    """Go down each prompt's items, best first, and take those whose groups are not full yet.

    Args:
        row: int64 [n], ascending, the prompt.
        item: int64 [n], best first within a prompt.
        caps: all of them hold at once.

    Returns:
        bool [n]: taken.
    """
    sorts = [_Group.of(row, cap.groups[item]) for cap in caps]
    taken, decided = np.zeros(len(row), dtype=bool), np.zeros(len(row), dtype=bool)
    while not decided.all():  # each turn decides at least each prompt's next item, and most turns nearly all
        fits, full = ~decided, np.zeros_like(taken)
        for cap, group in zip(caps, sorts, strict=True):
            fits &= group.free | (group.before(taken | ~decided) < cap.most)
            full |= ~group.free & (group.before(taken) >= cap.most)
        taken |= fits
        decided |= fits | full
    return taken


@dataclass(frozen=True)
class _Group:
    """Items sorted by prompt and group, in both best first.

    Attributes:
        order: int64 [n], the sorted places.
        begin: int64 [n], in sorted order, where an item's group begins.
        free: bool [n], whether an item is in no group.
    """

    order: Ints
    begin: Ints
    free: Bools

    @classmethod
    def of(cls, row: Ints, group: Ints) -> "_Group":
        order = np.lexsort((group, row))  # stable
        new = np.ones(len(row), dtype=bool)
        new[1:] = (np.diff(row[order]) != 0) | (np.diff(group[order]) != 0)
        return cls(order, np.maximum.accumulate(np.where(new, np.arange(len(row)), 0)), group < 0)

    def before(self, counted: NDArray[Any]) -> Ints:
        """Return how many of the counted items of its group stand before each item, int64 [n]."""
        sums = np.concatenate(([0], np.cumsum(counted[self.order])))
        result = np.empty(len(self.order), dtype=np.int64)
        result[self.order] = sums[:-1] - sums[self.begin]
        return result
