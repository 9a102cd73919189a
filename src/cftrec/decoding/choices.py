"""What a model says of the children of trie nodes, where its hidden states at the nodes are known."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cftrec.forest.backbone import Head
from cftrec.text.trie import Trie

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_HEAD_ROWS = 4096  # hidden states that meet the head at once


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
    return index, child, log_p


def _pair_log_probs(hidden: Tensor, row: Ints, token: Ints, head: Head, catalogue_softmax: bool) -> Floats:
    """Return log p(token | hidden[row]) for pairs, normalised over each row's pairs or over the vocabulary."""
    if not len(row):
        return np.empty(0)
    columns, column = np.unique(token, return_inverse=True) if catalogue_softmax else (None, token)
    select = slice(None) if columns is None else torch.from_numpy(columns).to(hidden.device)
    logits = (hidden @ head.weight[select].T).to(torch.promote_types(hidden.dtype, torch.float32))
    if head.bias is not None:
        logits += head.bias[select]
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    pair = (torch.from_numpy(row).to(hidden.device), torch.from_numpy(column).to(hidden.device))
    chosen = logits[pair]
    if catalogue_softmax:
        normalised = torch.full_like(logits, -torch.inf)
        normalised[pair] = chosen
        logits = normalised
    return (chosen - torch.logsumexp(logits, 1)[pair[0]]).double().cpu().numpy()
