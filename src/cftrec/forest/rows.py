"""Lay a step's sequences out as rows, shared or single: which are computed together, and where attention is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike

from cftrec.forest.build import Forest, Sorted, common_prefixes, grow, sort_sequences
from cftrec.ragged import Ints, Ragged

_GRID = 32  # nodes between two places where a block of attention may begin


@dataclass(frozen=True)
class Row:
    """A self-contained forest of some of the step's sequences.

    Attributes:
        members: int64 [n], which of the step's sequences the row holds; `forest.paths[m]` belongs to `members[m]`.
        forest: their prefix forest.
    """

    members: Ints
    forest: Forest

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self.forest.tokens)


def cut_rows(sequences: Ragged | Sequence[ArrayLike], row_tokens: int) -> list[Row]:
    """Cut sequences into rows of at most `row_tokens` nodes; only a single longer sequence makes a longer row.

    A row is what is computed at a time, so its bound is that of memory; and what two rows share is computed twice.
    Sequences are therefore kept together by trunk (all that begin alike beyond what every sequence shares, such as one
    user's window), and trunks fill rows first-fit, the largest first. A trunk too large for a row is cut.

    Args:
        sequences: non-empty token sequences.
        row_tokens: bound on the nodes of a row.

    Returns:
        Rows that together hold every sequence exactly once.
    """
    ordered = sort_sequences(sequences)
    base = int(ordered.shared[1:].min(initial=row_tokens))
    first, sizes = _trunks(ordered.lengths, ordered.shared, base, row_tokens)
    row = np.array(_fill(sizes, base, row_tokens)).repeat(np.diff(first, append=len(ordered.order)))
    return _grow_rows(ordered, row.argsort(kind="stable"), np.bincount(row))


def single_rows(sequences: Ragged | Sequence[ArrayLike]) -> list[Row]:
    """Make each sequence a row of its own, for models that cannot share beginnings."""
    rows = []
    for member, tokens in enumerate(Ragged.of(sequences).split()):
        path = np.arange(len(tokens))
        rows.append(Row(np.array([member]), Forest(tokens, path, np.full_like(path, len(path)), [path])))
    return rows


def _trunks(lengths: Ints, shared: Ints, base: int, row_tokens: int) -> tuple[list[int], list[int]]:
    """Split sorted sequences where no more than `base` tokens are shared, or where a trunk would outgrow a row.

    Returns:
        Each trunk's first sequence, and its nodes when computed alone.
    """
    new = lengths - shared
    begins = shared <= base
    begins[0] = True
    first = np.flatnonzero(begins)
    sizes = np.add.reduceat(new, first) + shared[first]
    if sizes.max() <= row_tokens:
        return first.tolist(), sizes.tolist()
    starts: list[int] = []
    totals: list[int] = []
    for place, (length, fresh, begin) in enumerate(zip(lengths.tolist(), new.tolist(), begins.tolist(), strict=True)):
        if begin or (fresh and totals[-1] + fresh > row_tokens):
            starts.append(place)
            totals.append(length)
        else:
            totals[-1] += fresh
    return starts, totals


def _fill(sizes: list[int], base: int, row_tokens: int) -> list[int]:
    """Return each trunk's row: the largest go first, each into the first row that has room."""
    if sum(sizes) - base * (len(sizes) - 1) <= row_tokens:
        return [0] * len(sizes)
    rows = [0] * len(sizes)
    room: list[int] = []
    for trunk in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
        needed = sizes[trunk] - base
        row = next((row for row, left in enumerate(room) if needed <= left), len(room))
        if row == len(room):
            room.append(row_tokens - base)
        rows[trunk] = row
        room[row] -= needed
    return rows


def _grow_rows(ordered: Sorted, places: Ints, counts: Ints) -> list[Row]:
    """Grow the forests of all rows at once: row r holds the next `counts[r]` of `places` in the sorted order."""
    table, lengths = ordered.table[places], ordered.lengths[places]
    shared = common_prefixes(table, lengths)
    first = np.cumsum(counts) - counts
    shared[first] = 0  # a row shares nothing with what stands before it
    grown = grow(table, lengths, shared)
    base = grown.starts[first]
    sizes = np.diff(grown.starts[[*first, -1]])
    ends = grown.end - np.repeat(base, sizes)
    nodes = grown.paths.values - np.repeat(base, np.add.reduceat(lengths, first))
    tokens, depth, end = (Ragged(values, sizes).split() for values in (grown.tokens, grown.depth, ends))
    paths = iter(Ragged(nodes, lengths).split())
    members = Ragged(ordered.order[places], counts).split()
    return [
        Row(own, Forest(tokens[row], depth[row], end[row], list(islice(paths, len(own)))))
        for row, own in enumerate(members)
    ]


def cut_blocks(depth: Ints, call: int) -> Ints:
    """Choose where the blocks of a forest begin, such that attention costs least.

    A block costs `call` + Q (depth[s] + Q): a call of attention, and its pairs of query and key. Blocks may begin at
    the shallowest node of every `_GRID` nodes; among those places the cuts are the best ones.

    Args:
        depth: int64 [L].
        call: what a call costs, in pairs of query and key (`forest.cost`).

    Returns:
        int64 [B + 1], from 0 to L.
    """
    grid = np.arange(0, len(depth), _GRID)
    padded = np.full((len(grid), _GRID), np.iinfo(np.int64).max)
    padded.ravel()[: len(depth)] = depth
    places = np.append(grid + padded.argmin(axis=1), len(depth))
    places[0] = 0
    best, before = np.zeros(len(places), dtype=np.int64), np.zeros(len(places), dtype=np.int64)
    for stop in range(1, len(places)):
        first = places[:stop]
        sizes = places[stop] - first
        costs = best[:stop] + call + sizes * (depth[first] + sizes)
        before[stop] = costs.argmin()
        best[stop] = costs[before[stop]]
    cuts = [len(places) - 1]
    while cuts[-1]:
        cuts.append(int(before[cuts[-1]]))
    return places[cuts[::-1]]


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
