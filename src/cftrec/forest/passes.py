"""From token sequences to passes, each of which a model computes at a time: token arrays only, ready for the device."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cftrec.forest.rows import Row, cut_blocks, cut_rows, pack_passes, single_rows
from cftrec.ragged import Ints, Ragged, ranges

Pass = dict[str, Tensor]


class Layout(NamedTuple):
    """How sequences are put into passes.

    Attributes:
        forest: whether shared beginnings are computed once, a pass being one forest; else every sequence is a row of
            its own, for models that cannot run on forests.
        pass_tokens: bound on a pass, in tokens.
        attention_call: what a call of attention costs, in pairs of query and key (`forest.cost`); used for forests.
    """

    forest: bool
    pass_tokens: int
    attention_call: int = 0


def make_passes(sequences: Ragged, predictors: Ragged, layout: Layout) -> tuple[list[Pass], Ints]:
    """Lay sequences out as passes.

    Args:
        sequences: token sequences; none make no pass.
        predictors: for each sequence the places whose hidden states are wanted.
        layout: how.

    Returns:
        Passes with `tokens` int64 [R, L] and `nodes` int64 [M], the wanted states in the flattened [R * L]; a forest
        (R = 1) also has `depth`, `end` int64 [L] and `cuts` int64 [B + 1] (`forest_hidden`). And the order int64
        [sum M] in which all passes together yield the wanted states, as indices into the concatenated predictors.
    """
    if not len(sequences.lengths):
        return [], np.empty(0, dtype=np.int64)
    packed = (
        [[row] for row in cut_rows(sequences, layout.pass_tokens)]
        if layout.forest
        else pack_passes(single_rows(sequences), layout.pass_tokens)
    )
    rows = [row for part in packed for row in part]
    members = np.concatenate([row.members for row in rows])
    paths = Ragged(np.concatenate([path for row in rows for path in row.forest.paths]), sequences.lengths[members])
    begins = np.repeat(  # of each member's row in its flattened pass
        [number * len(part[0]) for part in packed for number in range(len(part))], [len(row.members) for row in rows]
    )
    wanted = predictors.lengths[members]
    order = ranges(predictors.starts[members], wanted)
    nodes = paths.values[np.repeat(paths.starts, wanted) + predictors.values[order]] + np.repeat(begins, wanted)
    ends = np.cumsum(wanted)[np.cumsum([sum(len(row.members) for row in part) for part in packed]) - 1]
    passes = []
    for part, own in zip(packed, np.split(nodes, ends[:-1]), strict=True):
        arrays = _forest(part[0], layout.attention_call) if layout.forest else {"tokens": _padded(part)}
        passes.append({name: torch.from_numpy(array) for name, array in (arrays | {"nodes": own}).items()})
    return passes, order


def join(one: list[Pass], other: list[Pass], layout: Layout) -> list[Pass] | None:
    """Return one pass, a forest of both, where each is one forest and the bound allows for it; else None.

    Its `nodes` are those of `one`, then those of `other`.
    """
    if not layout.forest or len(one) != 1 or len(other) != 1:
        return None
    (first,), (second,) = one, other
    size = first["tokens"].shape[1]
    if size + second["tokens"].shape[1] > layout.pass_tokens:
        return None
    joined = {
        "tokens": (first["tokens"], second["tokens"]),
        "depth": (first["depth"], second["depth"]),
        "end": (first["end"], second["end"] + size),
        "cuts": (first["cuts"][:-1], second["cuts"] + size),
        "nodes": (first["nodes"], second["nodes"] + size),
    }
    return [{name: torch.cat(parts, -1) for name, parts in joined.items()}]


def _forest(row: Row, call: int) -> dict[str, Ints]:
    forest = row.forest
    return {
        "tokens": forest.tokens[None],
        "depth": forest.depth,
        "end": forest.end,
        "cuts": cut_blocks(forest.depth, call),
    }


def _padded(rows: Sequence[Row]) -> Ints:
    """Stack rows, the longest of which is the first; a causal model needs not be told what fills them up."""
    tokens = np.zeros((len(rows), len(rows[0])), dtype=np.int64)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row.forest.tokens
    return tokens
