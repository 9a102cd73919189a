"""Log p of given items after given prompts: prompts and shared beginnings of titles are computed once.

The nodes on the items' paths form a small trie under each prompt. Its chains of forced tokens are appended to a tree of
keys and values level by level, as the search does, and each hidden state at a choice is asked about all its children.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cftrec.decoding.choices import child_log_probs
from cftrec.decoding.tree import open_tree
from cftrec.forest.backbone import head_of
from cftrec.ragged import Ints, Ragged, ranges
from cftrec.text.catalogue import Catalogue


@torch.no_grad()
def item_log_probs(
    model: Any,
    catalogue: Catalogue,
    prompts: Sequence[NDArray[np.int32]],
    items: Ragged,
    *,
    softmax: str = "catalogue",
    batching: str = "forest",
) -> Ragged:
    """Return log p of each token of each item after its prompt.

    Args:
        model: a transformers causal language model in eval mode.
        catalogue: gives the items' tokens.
        prompts: B token sequences, none empty.
        items: int64, for each prompt the indices of its items, any number, repeats allowed.
        softmax: "catalogue": log p normalises over the tokens that continue some title, and a forced token has 0;
            "vocabulary": over all tokens.
        batching: how the model runs titles together, "forest" or "padded" (`open_tree`).

    Returns:
        float64, one run a pair of prompt and item, prompt after prompt: log p (nats) of the item's tokens.
    """
    trie, size = catalogue.trie, len(catalogue.trie)
    flat = items.values
    lengths = trie.offsets[flat + 1] - trie.offsets[flat]
    pair = np.repeat(np.repeat(np.arange(len(prompts)), items.lengths), lengths) * size
    key, place = np.unique(pair + trie.paths[ranges(trie.offsets[flat], lengths)], return_inverse=True)
    log_p = np.zeros(len(key))
    if len(key):
        _walk(model, catalogue, prompts, key, log_p, softmax == "catalogue", batching)
    return Ragged(log_p[place], lengths)


def _walk(
    model: Any,
    catalogue: Catalogue,
    prompts: Sequence[NDArray[np.int32]],
    key: Ints,
    log_p: NDArray[np.float64],
    forced_free: bool,
    batching: str,
) -> None:
    """Fill in log p of every node, given as row * trie nodes + node, ascending; the nodes above one are among them."""
    trie, head, size = catalogue.trie, head_of(model), len(catalogue.trie)
    row, node = key // size, key % size
    above = np.searchsorted(key, row * size + trie.parent[node])  # of nodes under the root: meaningless
    top = trie.parent[node] == 0
    begins = top | trie.choices[trie.parent[node]]
    first = np.flatnonzero(begins)  # in preorder a chain's nodes are consecutive
    chain = np.cumsum(begins) - 1
    parent = np.where(top[first], -1, chain[above[first]])
    sizes = np.diff(np.append(first, len(key)))
    childless = np.bincount(parent[parent >= 0], minlength=len(first)) == 0
    # Nothing is asked at a title's last token, nor, where forced tokens are free, anywhere on a childless chain.
    sizes[childless] = 0 if forced_free else sizes[childless] - 1
    number = np.full(len(first), -1, dtype=np.int64)  # in the tree

    def ask(hidden: torch.Tensor, rows: Ints, nodes: Ints) -> None:
        index, child, found = child_log_probs(hidden, nodes, trie, head, forced_free)
        wanted = rows[index] * size + child
        at = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        known = key[at] == wanted
        log_p[at[known]] = found[known]

    tree = open_tree(model, prompts, batching)
    begun = len(prompts)
    everyone = np.arange(begun)
    ask(tree.root, everyone, np.zeros_like(everyone))
    ready = (parent < 0) & (sizes > 0)
    while ready.any():
        chosen = np.flatnonzero(ready)
        number[chosen] = begun + np.arange(len(chosen))
        begun += len(chosen)
        run = ranges(first[chosen], sizes[chosen])
        rows = row[first[chosen]]
        source = np.where(parent[chosen] < 0, rows, number[parent[chosen]])
        hidden = tree.append(rows, source, trie.token[node[run]].astype(np.int64), sizes[chosen])
        asked = np.cumsum(sizes[chosen]) - 1 if forced_free else np.arange(len(run))
        ask(hidden[torch.from_numpy(asked)], row[run[asked]], node[run[asked]])
        ready = (number < 0) & (sizes > 0) & (parent >= 0) & (number[parent] >= 0)
