"""Merge token sequences into a prefix forest in depth-first order, with numpy and no loop over tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Forest:
    """Every distinct prefix of some sequences, once, in depth-first order.

    Node j is an ancestor of node i (or i itself) iff `j <= i < end[j]`. A sequence's nodes are `paths[s]`; the hidden
    state at `paths[s][t]` has seen exactly the first t + 1 tokens of sequence s.

    Attributes:
        tokens: int64 [L], the token of each node.
        depth: int64 [L], tokens before the node on its path: its position id.
        end: int64 [L], one past the last node of the node's subtree.
        paths: one int64 array a sequence, in the order the sequences were given.
    """

    tokens: Ints
    depth: Ints
    end: Ints
    paths: list[Ints]


def build_forest(sequences: Sequence[ArrayLike]) -> Forest:
    """Build the prefix forest of token sequences.

    Args:
        sequences: N integer sequences of any lengths (empty ones give empty paths); tokens are >= 0.

    Returns:
        The forest. Its size L is the number of distinct non-empty prefixes; equal sequences share one path.
    """
    arrays = [np.asarray(sequence, dtype=np.int64).reshape(-1) for sequence in sequences]
    lengths = np.array([len(array) for array in arrays], dtype=np.int64)
    table = pad(arrays, lengths)
    order = sort_rows(table)
    table, lengths = table[order], lengths[order]
    shared = common_prefixes(table, lengths)

    count, width = table.shape
    new = np.arange(width) >= shared[:, None]
    new &= np.arange(width) < lengths[:, None]
    sizes = lengths - shared
    starts = np.concatenate(([0], np.cumsum(sizes)))
    total = int(starts[-1])

    # A node's number where the sequence brings it in; below, each sequence takes over its predecessor's beginning:
    # numbers grow down the table, so the running maximum of a column is the branch that is open there.
    number = np.full((count, width), -1, dtype=np.int64)
    number[new] = np.arange(total)
    path_table = np.maximum.accumulate(number, axis=0)

    # A node's subtree ends where a later sequence branches off at or above its depth: the first later row whose
    # shared prefix does not hold the node; the running minimum from below finds it for all nodes at once.
    closes = np.where(np.arange(width) >= shared[:, None], starts[:-1, None], total)
    closes = np.minimum.accumulate(closes[::-1], axis=0)[::-1]
    end_table = np.full((count, width), total, dtype=np.int64)
    end_table[:-1] = closes[1:]

    paths: list[Ints] = [np.empty(0, dtype=np.int64)] * count
    for row, sequence in enumerate(order):
        paths[sequence] = path_table[row, : lengths[row]]
    depth = np.broadcast_to(np.arange(width), (count, width))[new]
    return Forest(tokens=table[new], depth=depth, end=end_table[new], paths=paths)


def pad(arrays: Sequence[Ints], lengths: Ints) -> Ints:
    """Put sequences into one int64 table [N, longest], filled up with -1."""
    width = int(lengths.max(initial=0))
    table = np.full((len(arrays), width), -1, dtype=np.int64)
    if width:
        table[np.arange(width) < lengths[:, None]] = np.concatenate(arrays)
    return table


def sort_rows(table: Ints) -> Ints:
    """Return the order that sorts the rows of a token table, a prefix before its extensions; equal rows stay in order.

    The rows are compared as big-endian bytes, so one sort of N keys does the work of a sort per column.
    """
    if not table.size:
        return np.arange(len(table))
    keys = np.ascontiguousarray((table + 1).astype(">u4"))
    return np.argsort(keys.view(np.dtype((np.void, keys.dtype.itemsize * keys.shape[1])))[:, 0], kind="stable")


def common_prefixes(table: Ints, lengths: Ints) -> Ints:
    """Return for each row of a sorted table how many first tokens it shares with the row before it (row 0: none)."""
    shared = np.zeros(len(table), dtype=np.int64)
    if len(table) > 1 and table.shape[1]:
        differs = table[1:] != table[:-1]
        first = np.where(differs.any(axis=1), differs.argmax(axis=1), table.shape[1])
        shared[1:] = np.minimum(first, np.minimum(lengths[1:], lengths[:-1]))
    return shared
