"""A helper's opinion of the items mixed into the model's, token by token: D3's assistant model (arXiv 2406.14900).

A helper, such as a sequential recommender on item ids, gives each user's items scores. Their softmax, added up over the
items under each trie node, says how likely the helper finds each child of a node; the search adds that to the model's
log probability of the child. A title's score is therefore

    (1 - weight) log p(title | history) + weight log q(title),      q: the softmax of the helper's scores

This is D3's formula, a weighted mean of log probabilities, not normalised again; its alpha is 1 - weight. Neither
part grows along a title, so a beginning still bounds its titles and the search is exact.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cftrec.decoding.search import Adjust
from cftrec.errors import InputError
from cftrec.ragged import ranges
from cftrec.text.trie import Trie

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def mixed_with(trie: Trie, scores: ArrayLike, weight: float) -> Adjust:
    """Return what the search needs to rank by model and helper together (`search`'s `adjust`).

    Args:
        trie: the catalogue's, I items.
        scores: finite numbers [B, I], the helper's score of each item for each prompt, in any unit that its softmax
            makes sense of.
        weight: of the helper's log probabilities, from 0 (the model alone) to 1 (the helper alone).

    Raises:
        InputError: a weight out of range, another shape, or a score that is no finite number.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"helper_weight {weight}: must be from 0 (the model alone) to 1 (the helper alone)")
    try:
        given = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:  # texts, or users' lists of several lengths
        raise InputError(f"helper scores: give every user a finite one of each item ({error})") from error
    if given.ndim != 2 or given.shape[1] != len(trie.item_node) or not np.isfinite(given).all():
        raise InputError(f"helper scores of shape {given.shape}: give every user a finite one of each item")
    ordered = given[:, trie.terminal_items]  # in preorder a subtree's items are adjacent

    def adjust(rows: Ints, nodes: Ints, index: Ints, child: Ints, log_p: Floats) -> Floats:
        return (1 - weight) * log_p + weight * _child_log_shares(trie, ordered, rows[index], index, child)

    return adjust


def _child_log_shares(trie: Trie, ordered: Floats, row: Ints, index: Ints, child: Ints) -> Floats:
    """Return log q(child | node), normalised over the node's children as the model's catalogue softmax is."""
    if not len(child):
        return np.empty(0)
    begin = trie.terminal_offsets[child]
    counts = trie.terminal_offsets[trie.end[child]] - begin
    under = ordered[np.repeat(row, counts), ranges(begin, counts)]
    mass = _log_sum_exp(under, np.cumsum(counts) - counts)
    first = np.flatnonzero(np.diff(index, prepend=-1))
    return mass - np.repeat(_log_sum_exp(mass, first), np.diff(np.append(first, len(index))))


def _log_sum_exp(values: Floats, starts: Ints) -> Floats:
    """Return log sum exp of runs of values, none empty, that begin at `starts`."""
    top = np.maximum.reduceat(values, starts)
    lengths = np.diff(np.append(starts, len(values)))
    return top + np.log(np.add.reduceat(np.exp(values - np.repeat(top, lengths)), starts))
