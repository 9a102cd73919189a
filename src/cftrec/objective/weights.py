"""Weights of a title's tokens: early tokens decide which title it is, so they count more."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cftrec.text.trie import Trie


def token_weights(lengths: Tensor | list[int], *, beta: float = 0.25) -> Tensor:
    """Return w_t = 1 - (1 - beta) (t - 1) / (T - 1) for each target, one after another (arXiv 2410.22809).

    Args:
        lengths: [n], the number T >= 0 of weighted tokens of each target.
        beta: weight of a target's last token; 1 weighs all alike. Default as in the authors' code.

    Returns:
        float32 [sum(lengths)]; 1 at each target's first token, beta at its last; T = 1 gives 1.
    """
    counts = torch.as_tensor(lengths, dtype=torch.int64)
    starts = torch.cumsum(counts, 0) - counts
    position = torch.arange(int(counts.sum()), device=counts.device) - torch.repeat_interleave(starts, counts)
    span = torch.repeat_interleave((counts - 1).clamp(min=1), counts)
    return (1 - (1 - beta) * (position.double() / span)).float()


def gain_weights(trie: Trie, counts: ArrayLike, *, beta: float = 0.25) -> Tensor:
    """Return for each trie node the weight of the token that leads to it: beta where that token tells nothing.

    With p an item's share of the training events and H(n) the sum of -p log p over the items under node n, the token
    gains H(parent) - H(n) (arXiv 2506.13229). That is the sum over the items it rules out, none of which is below 0: it
    is 0 exactly where no item with 0 < p < 1 is ruled out, so whole numbers of items decide, and no rounding.

    Args:
        trie: the catalogue's, n nodes and I items.
        counts: [I], training events of each item; where all are 0, all items count alike.
        beta: weight of a token without gain.

    Returns:
        float32 [n], beta or 1; the root, to which no token leads, has 1.
    """
    events = np.asarray(counts, dtype=np.int64)
    if not events.any():
        events = np.ones_like(events)
    uncertain = (events > 0) & (events < events.sum())
    before = np.concatenate(
        ([0], np.cumsum(uncertain[trie.terminal_items]))
    )  # preorder: a subtree's items are adjacent
    under = before[trie.terminal_offsets[trie.end]] - before[trie.terminal_offsets[:-1]]
    gains = under[trie.parent] > under
    gains[0] = True
    return torch.where(torch.from_numpy(gains), 1.0, beta)
