"""What a model says of the children of trie nodes, where its hidden states at the nodes are known."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cftrec.errors import InputError
from cftrec.forest.backbone import Head
from cftrec.text.trie import Trie

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_HEAD_ROWS = 4096  # hidden states that meet the head at once
_WIDE = 64  # children from which on a node shares one product with its like: with fewer, most of it would be waste
_PAIRS = 2**14  # node and child, each multiplied by itself, at once


def child_log_probs(
    hidden: Tensor, nodes: Ints, trie: Trie, head: Head, catalogue_softmax: bool
) -> tuple[Ints, Ints, Floats]:
    """Return log p of every child of each node, flat: the node's place in `nodes`, the child, and log p(child | node).

    Args:
        hidden: [n, H], the hidden state at each node.
        nodes: int64 [n].
        trie: the catalogue's.
        head: the model's.
        catalogue_softmax: normalise over the children, else over the vocabulary.

    Raises:
        InputError: a log p is no number.
    """
    counts = trie.child_counts[nodes].astype(np.int64)
    index = np.repeat(np.arange(len(nodes)), counts)
    within = np.arange(len(index)) - (np.cumsum(counts) - counts)[index]
    child = trie.children[trie.child_offsets[nodes][index] + within].astype(np.int64)
    token = trie.token[child].astype(np.int64)
    log_p = np.empty(len(index))
    bounds = np.searchsorted(index, np.arange(0, len(nodes) + _HEAD_ROWS, _HEAD_ROWS))
    for number, (begin, stop) in enumerate(pairwise(bounds)):
        rows = slice(number * _HEAD_ROWS, (number + 1) * _HEAD_ROWS)
        part = index[begin:stop] - rows.start
        log_p[begin:stop] = _pair_log_probs(hidden[rows], part, token[begin:stop], head, catalogue_softmax)
    return index, child, numbers(log_p)


def numbers(values: NDArray[Any]) -> NDArray[Any]:
    """Return what a model gave as it is.

    Raises:
        InputError: it is no number (NaN), as of a model whose training diverged; any order of it would be a wrong one.
    """
    if np.isnan(values).any():
        raise InputError(
            "the model's answers are no numbers: its training diverged; train again with a lower learning_rate"
        )
    return values


def _pair_log_probs(hidden: Tensor, row: Ints, token: Ints, head: Head, catalogue_softmax: bool) -> Floats:
    """Return log p(token | hidden[row]) for pairs by row, normalised over each row's pairs or over the vocabulary."""
    if not catalogue_softmax:
        whole = _capped((hidden @ head.weight.T).to(_precise(hidden)), head, slice(None))
        pair = (torch.from_numpy(row).to(hidden.device), torch.from_numpy(token).to(hidden.device))
        return _floats(whole[pair] - torch.logsumexp(whole, 1)[pair[0]])
    logits = np.empty(len(row))
    wide = np.bincount(row)[row] > _WIDE if len(row) else np.zeros(0, dtype=bool)
    if wide.any():
        logits[wide] = _logits_of_all(hidden, row[wide], token[wide], head)
    narrow = np.flatnonzero(~wide)
    for begin in range(0, len(narrow), _PAIRS):
        part = narrow[begin : begin + _PAIRS]
        logits[part] = _logits_of_pairs(hidden, row[part], token[part], head)
    return _log_softmax(logits, row)


def _logits_of_all(hidden: Tensor, row: Ints, token: Ints, head: Head) -> Floats:
    """Return the logits of pairs, by one product of the rows that occur and the head's rows that occur."""
    (rows, row), (tokens, token) = (np.unique(numbers, return_inverse=True) for numbers in (row, token))
    select = torch.from_numpy(tokens).to(hidden.device)
    dtype = _precise(hidden)
    logits = hidden[torch.from_numpy(rows).to(hidden.device)].to(dtype) @ head.weight[select].to(dtype).T
    return _floats(_capped(logits, head, select)[torch.from_numpy(row), torch.from_numpy(token)])


def _logits_of_pairs(hidden: Tensor, row: Ints, token: Ints, head: Head) -> Floats:
    """Return the same, each by a product of its own."""
    rows, tokens = (torch.from_numpy(numbers).to(hidden.device) for numbers in (row, token))
    dtype = _precise(hidden)
    return _floats(_capped((hidden[rows].to(dtype) * head.weight[tokens].to(dtype)).sum(1), head, tokens))


def _log_softmax(logits: Floats, row: Ints) -> Floats:
    """Normalise over each row's pairs."""
    if not len(row):
        return logits
    first = np.flatnonzero(np.diff(row, prepend=-1))
    sizes = np.diff(np.append(first, len(row)))
    logits = logits - np.repeat(np.maximum.reduceat(logits, first), sizes)
    return logits - np.repeat(np.log(np.add.reduceat(np.exp(logits), first)), sizes)


def _capped(logits: Tensor, head: Head, tokens: Tensor | slice) -> Tensor:
    """Add the bias of the logits' tokens and cap, as the head does."""
    if head.bias is not None:
        logits = logits + head.bias[tokens]
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def _precise(hidden: Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)


def _floats(values: Tensor) -> Floats:
    return values.double().cpu().numpy()
