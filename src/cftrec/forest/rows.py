"""Lay a step's sequences out as rows, shared or single, and rows as passes of bounded size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cftrec.forest.build import Forest, Ints, build_forest, common_prefixes, pad, sort_rows


@dataclass(frozen=True)
class Row:
    """One row of a pass: a self-contained forest of some of the step's sequences.

    Attributes:
        members: int64 [n], which of the step's sequences the row holds; `forest.paths[m]` belongs to `members[m]`.
        forest: their prefix forest.
    """

    members: Ints
    forest: Forest

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self.forest.tokens)


def cut_rows(sequences: Sequence[ArrayLike], row_tokens: int) -> list[Row]:
    """Cut sequences into rows of at most `row_tokens` nodes; only a single longer sequence makes a longer row.

    Attention is dense within a row, so its cost grows with the row's square; and what two rows share is computed
    twice. Sequences are therefore kept together by trunk (all that begin alike beyond what every sequence shares, such
    as one user's window), and trunks fill rows first-fit, the largest first. A trunk too large for a row is cut.

    Args:
        sequences: non-empty token sequences.
        row_tokens: bound on the nodes of a row.

    Returns:
        Rows that together hold every sequence exactly once.
    """
    arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    lengths = np.array([len(array) for array in arrays], dtype=np.int64)
    table = pad(arrays, lengths)
    order = sort_rows(table)
    shared = common_prefixes(table[order], lengths[order])
    base = int(shared[1:].min(initial=row_tokens))

    bins: list[list[NDArray[np.int64]]] = []
    filled: list[int] = []
    for size, trunk in sorted(_trunks(lengths[order], shared, base, row_tokens), key=lambda pair: -pair[0]):
        fits = next((index for index, load in enumerate(filled) if load + size - base <= row_tokens), None)
        if fits is None:
            bins.append([trunk])
            filled.append(size)
        else:
            bins[fits].append(trunk)
            filled[fits] += size - base
    rows = []
    for trunks in bins:
        members = order[np.sort(np.concatenate(trunks))]
        rows.append(Row(members, build_forest([arrays[member] for member in members])))
    return rows


def single_rows(sequences: Sequence[ArrayLike]) -> list[Row]:
    """Make each sequence a row of its own, for models that cannot share beginnings."""
    rows = []
    for member, sequence in enumerate(sequences):
        tokens = np.asarray(sequence, dtype=np.int64)
        path = np.arange(len(tokens))
        rows.append(Row(np.array([member]), Forest(tokens, path, np.full_like(path, len(path)), [path])))
    return rows


def _trunks(lengths: Ints, shared: Ints, base: int, row_tokens: int) -> list[tuple[int, Ints]]:
    """Split sorted sequences where no more than `base` tokens are shared, or where a trunk would outgrow a row.

    Returns:
        (nodes when computed alone, positions in the sorted order) of each trunk.
    """
    trunks: list[tuple[int, Ints]] = []
    begin, size = 0, int(lengths[0])
    for position in range(1, len(lengths)):
        new = int(lengths[position] - shared[position])
        if shared[position] <= base or (new and size + new > row_tokens):
            trunks.append((size, np.arange(begin, position)))
            begin, size = position, int(lengths[position])
        else:
            size += new
    trunks.append((size, np.arange(begin, len(lengths))))
    return trunks


def pack_passes(rows: Sequence[Row], pass_tokens: int) -> list[list[Row]]:
    """Group rows of similar length so that a pass, padded to its longest row, holds at most `pass_tokens` tokens.

    A row longer than that is a pass of its own.
    """
    passes: list[list[Row]] = []
    width = 0
    for row in sorted(rows, key=len, reverse=True):
        if passes and (len(passes[-1]) + 1) * width <= pass_tokens:
            passes[-1].append(row)
        else:
            passes.append([row])
            width = len(row)
    return passes
