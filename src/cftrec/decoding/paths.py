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
from cftrec.forest.backbone import causal_lm, forest_hidden, head_of, logit_scale
from cftrec.forest.masks import attention_mask
from cftrec.forest.passes import Layout, Pass, make_passes
from cftrec.ragged import Ints, Ragged, ranges
from cftrec.text.catalogue import Catalogue

_PASS_TOKENS = 1024  # of a forest of prompts: its mask is dense


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


@torch.no_grad()
def prompt_log_probs(
    model: Any, catalogue: Catalogue, prompts: Sequence[NDArray[np.int32]], item: int, *, batching: str = "forest"
) -> NDArray[np.float64]:
    """Return log p of each token of one item after each of many prompts, whose shared beginnings are computed once.

    Args:
        model: a transformers causal language model in eval mode.
        catalogue: gives the item's T tokens.
        prompts: n token sequences, none empty.
        item: the item's index.
        batching: "forest": a pass is one forest of prompts, each with the item's tokens; "padded": a row for each.

    Returns:
        float64 [n, T], nats, under the catalogue softmax: a forced token has 0.
    """
    trie, path = catalogue.trie, catalogue.trie.path(item)
    above = trie.parent[path].astype(np.int64)
    free = np.flatnonzero(trie.choices[above])
    log_p = np.zeros((len(prompts), len(path)))
    if not len(free) or not len(prompts):
        return log_p
    title = trie.token[path[: free[-1]]]  # what comes later predicts nothing that is a choice
    sequences = Ragged.of([np.concatenate([prompt, title]) for prompt in prompts])
    asked = Ragged.of([len(prompt) - 1 + free for prompt in prompts])
    hidden = _states(model, sequences, asked, batching == "forest")
    nodes, wanted = np.tile(above[free], len(prompts)), np.tile(path[free], len(prompts))
    index, child, found = child_log_probs(hidden, nodes, trie, head_of(model), catalogue_softmax=True)
    log_p[:, free] = found[child == wanted[index]].reshape(len(prompts), len(free))
    return log_p


def _states(model: Any, sequences: Ragged, asked: Ragged, forest: bool) -> torch.Tensor:
    """Return the hidden states at the places asked for, sequence after sequence, scaled for the head."""
    passes, order = make_passes(sequences, asked, Layout(forest, _PASS_TOKENS))
    run = _forest_states if forest else _row_states
    hidden = torch.cat([run(model, part) for part in passes])
    return hidden[torch.from_numpy(np.argsort(order)).to(hidden.device)]


def _row_states(model: Any, part: Pass) -> torch.Tensor:
    hidden = forest_hidden(model, part["tokens"].to(model.device))
    return hidden.flatten(0, 1)[part["nodes"].to(model.device)]


def _forest_states(model: Any, part: Pass) -> torch.Tensor:
    """Run a forest under a dense mask, which any attention takes that takes masks."""
    tokens, depth, end, nodes = (part[name].to(model.device) for name in ("tokens", "depth", "end", "nodes"))
    place = torch.arange(len(end), device=model.device)
    ancestors = (place <= place[:, None]) & (place[:, None] < end)
    mask = attention_mask(ancestors[None], depth[None], depth[None], model.config, model.dtype)
    output = causal_lm(model).base_model(
        input_ids=tokens, attention_mask=mask, position_ids=depth[None], use_cache=False
    )
    return output.last_hidden_state[0, nodes] * logit_scale(model.config)
