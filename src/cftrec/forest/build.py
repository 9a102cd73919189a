"""Merge token sequences into a prefix forest in depth-first order, with numpy and no loop over tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cftrec.ragged import Ints, Ragged


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


class Sorted(NamedTuple):
    """Sequences in the order of their tokens, a prefix before its extensions; equal ones stay in order.

    Attributes:
        order: int64 [N], which of the given sequences stands where.
        table: int64 [N, longest], their tokens, filled up with -1.
        lengths: int64 [N].
        shared: int64 [N], how many first tokens each shares with the one before it (the first: none).
    """

    order: Ints
    table: Ints
    lengths: Ints
    shared: Ints


class Grown(NamedTuple):
    """Forests of sorted sequences, one after another.

    Attributes:
        tokens: int64 [L], as in `Forest`.
        depth: int64 [L].
        end: int64 [L].
        starts: int64 [N + 1], the number of the first node that each sequence brings in, closed by L.
        paths: the nodes of each sequence, in sorted order.
    """

    tokens: Ints
    depth: Ints
    end: Ints
    starts: Ints
    paths: Ragged


def build_forest(sequences: Ragged | Sequence[ArrayLike]) -> Forest:
    """Build the prefix forest of token sequences.

    Args:
        sequences: N integer sequences of any lengths (empty ones give empty paths); tokens are >= 0.

    Returns:
        The forest. Its size L is the number of distinct non-empty prefixes; equal sequences share one path.
    """
    ordered = sort_sequences(sequences)
    grown = grow(ordered.table, ordered.lengths, ordered.shared)
    paths: list[Ints] = [np.empty(0, dtype=np.int64)] * len(ordered.order)
    for sequence, path in zip(ordered.order.tolist(), grown.paths.split(), strict=True):
        paths[sequence] = path
    return Forest(tokens=grown.tokens, depth=grown.depth, end=grown.end, paths=paths)


def sort_sequences(sequences: Ragged | Sequence[ArrayLike]) -> Sorted:
    """Sort token sequences and find what neighbours share."""
    ragged = Ragged.of(sequences)
    table = pad(ragged)
    order = sort_rows(table)
    table, lengths = table[order], ragged.lengths[order]
    return Sorted(order, table, lengths, common_prefixes(table, lengths))


def grow(table: Ints, lengths: Ints, shared: Ints) -> Grown:
    """Grow the forest of sorted sequences, with the arguments that `Sorted` has.

    Where `shared` is 0 a tree begins that nothing before it is part of, so several forests can be grown at once: the
    sequences of each sorted, and 0 for its first.
    """
    count, width = table.shape
    columns = np.arange(width)
    used = columns < lengths[:, None]
    fresh = columns >= shared[:, None]
    new = fresh & used
    starts = np.concatenate(([0], np.cumsum(lengths - shared)))
    total = int(starts[-1])

    # A node's number where the sequence brings it in; below, each sequence takes over its predecessor's beginning:
    # numbers grow down the table, so the running maximum of a column is the branch that is open there.
    number = np.full((count, width), -1, dtype=np.int64)
    number[new] = np.arange(total)
    np.maximum.accumulate(number, axis=0, out=number)

    # A node's subtree ends where a later sequence branches off at or above its depth: the first later row whose
    # shared prefix does not hold the node; the running minimum from below finds it for all nodes at once.
    closes = np.full((count + 1, width), total, dtype=np.int64)
    np.copyto(closes[:-1], starts[:-1, None], where=fresh)
    np.minimum.accumulate(closes[::-1], axis=0, out=closes[::-1])

    depth = np.broadcast_to(columns, (count, width))[new]
    return Grown(table[new], depth, closes[1:][new], starts, Ragged(number[used], lengths))


def pad(sequences: Ragged) -> Ints:
    """Put sequences into one int64 table [N, longest], filled up with -1."""
    width = int(sequences.lengths.max(initial=0))
    table = np.full((len(sequences.lengths), width), -1, dtype=np.int64)
    table[np.arange(width) < sequences.lengths[:, None]] = sequences.values
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
