"""Brute-force scores: every title after every prompt, through the model as it is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cftrec.decoding.choices import numbers
from cftrec.text.catalogue import Catalogue

_LOGIT_BYTES = 256 * 2**20  # of one padded batch's fp32 logits


@torch.no_grad()
def sequence_log_probs(
    model: Any,
    prompts: Sequence[NDArray[np.int32]],
    items: Sequence[int],
    catalogue: Catalogue,
    softmax: str,
) -> list[NDArray[np.float64]]:
    """Return log p of each token of an item's sequence after a prompt: padded batches and full logits, no trie search.

    Args:
        model: a transformers causal language model in eval mode.
        prompts: n token sequences.
        items: n items, one a prompt.
        catalogue: gives the items' tokens.
        softmax: "catalogue" (over the tokens that continue some title; a forced one has log p 0) or "vocabulary".

    Returns:
        n float64 arrays [T]; logits are the model's own, at least fp32, and are normalised in fp64.

    Raises:
        InputError: a log p is no number.
    """
    sequences = [np.concatenate([prompt, catalogue.sequence(i)]) for prompt, i in zip(prompts, items, strict=True)]
    order = np.argsort([len(sequence) for sequence in sequences], kind="stable")
    results: list[NDArray[np.float64]] = [np.empty(0)] * len(sequences)
    longest = max((len(sequence) for sequence in sequences), default=1)
    size = max(1, _LOGIT_BYTES // (4 * model.config.vocab_size * longest))
    for begin in range(0, len(order), size):
        batch = order[begin : begin + size]
        width = max(len(sequences[i]) for i in batch)
        tokens = torch.zeros(len(batch), width, dtype=torch.int64)
        real = torch.zeros_like(tokens)
        for row, i in enumerate(batch):
            tokens[row, : len(sequences[i])] = torch.from_numpy(sequences[i])
            real[row, : len(sequences[i])] = 1
        logits = model(input_ids=tokens.to(model.device), attention_mask=real.to(model.device), use_cache=False).logits
        for row, i in enumerate(batch):
            target = catalogue.sequence(items[i])
            first = len(prompts[i]) - 1
            scores = logits[row, first : first + len(target)].double().cpu()
            if softmax == "catalogue":
                scores = scores + _continuations(catalogue, items[i], scores.shape[1])
            chosen = torch.from_numpy(target.astype(np.int64))[:, None]
            results[i] = numbers(torch.log_softmax(scores, 1).gather(1, chosen)[:, 0].numpy())
    return results


def _continuations(catalogue: Catalogue, item: int, vocabulary: int) -> torch.Tensor:
    """Return [T, V]: 0 for tokens that continue some title after each beginning of the item, -inf for all others."""
    trie = catalogue.trie
    mask = torch.full((len(catalogue.sequence(item)), vocabulary), -torch.inf)
    for place, node in enumerate(trie.parent[trie.path(item)]):
        children = trie.children[trie.child_offsets[node] : trie.child_offsets[node + 1]]
        mask[place, torch.from_numpy(trie.token[children].astype(np.int64))] = 0
    return mask
