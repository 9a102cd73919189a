"""Hidden states of prompts and of whatever tree of tokens grows out of them, by one of two ways.

A tree is opened on B prompts and grows by chains of tokens, each of which goes on from a prompt or from an earlier
chain. They have numbers: the prompts 0 to B - 1, and the chains on from B in the order they came.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from cftrec.forest.backbone import causal_lm, forest_hidden, logit_scale
from cftrec.forest.masks import attention_mask
from cftrec.forest.passes import Layout, make_passes
from cftrec.ragged import Ragged, ranges

Ints = NDArray[np.int64]
_PASS_TOKENS = 4096  # a state-space layer without kernels holds a whole state for each
_WORTH = 64  # tokens that a shared beginning must spare, for it is a pass of its own


def open_tree(model: Any, prompts: Sequence[NDArray[np.int32]], batching: str) -> "TokenTree | PaddedTree":
    """Run prompts through a model.

    Args:
        model: a transformers causal language model in eval mode.
        prompts: B token sequences, none empty.
        batching: "forest": keys and values are kept, under ancestor masks; "padded": for models that take none.
    """
    return TokenTree(model, prompts) if batching == "forest" else PaddedTree(model, prompts)


class TokenTree:
    """A tree whose keys and values are kept, each in a slot of its own; nothing is reordered.

    What all prompts begin with is computed once. Every appended token takes a slot, the same column in all B rows;
    columns that a row does not use stay invisible.

    Attributes:
        root: [B, H], the hidden state at each prompt's end.
        lengths: int64 [B], tokens of each prompt.
        paths: int64 [prompts and chains, longest], the slots on each one's way from the prompt's end; -1 fills up,
            in any place.
    """

    def __init__(self, model: Any, prompts: Sequence[NDArray[np.int32]]) -> None:
        self.model = model
        self.lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        width = int(self.lengths.max())
        tokens = np.zeros((len(prompts), width), dtype=np.int64)
        self.visible = np.arange(width) < self.lengths[:, None]
        tokens[self.visible] = np.concatenate(prompts)
        self.paths = np.full((len(prompts), 1), -1, dtype=np.int64)
        # No config: a cache made from one drops old slots of sliding layers, and slots of a tree are not in order.
        self.cache = DynamicCache()
        shared = _shared_beginning(prompts)
        if shared:
            self.depth = np.arange(shared)[None]
            self._run(tokens[:1, :shared], self.depth, np.tri(shared, dtype=bool)[None])
            self.cache.batch_repeat_interleave(len(prompts))
        self.depth = np.tile(np.arange(width), (len(prompts), 1))
        # Padding comes last, so a prompt needs no more than the causal mask.
        causal = np.tri(width, dtype=bool)[None, shared:].repeat(len(prompts), 0)
        hidden = self._run(tokens[:, shared:], self.depth[:, shared:], causal)
        self.root = hidden[torch.arange(len(prompts)), torch.from_numpy(self.lengths - 1 - shared)]

    def append(self, row: Ints, parent: Ints, tokens: Ints, sizes: Ints) -> Tensor:
        """Run chains and keep their keys and values.

        Args:
            row: int64 [n], ascending, the prompt of each chain among those kept.
            parent: int64 [n], what each chain goes on from.
            tokens: int64 [sum sizes], chain after chain.
            sizes: int64 [n], each at least 1.

        Returns:
            [sum sizes, H] hidden states, scaled for the head.
        """
        first = np.cumsum(sizes) - sizes
        totals = np.bincount(row, weights=sizes, minlength=len(self.lengths)).astype(np.int64)
        start = first - (np.cumsum(totals) - totals)[row]  # column of each chain's first token within its row
        owner = np.repeat(np.arange(len(sizes)), sizes)
        within = np.arange(len(owner)) - first[owner]
        place = (row[owner], start[owner] + within)
        above = self.paths[parent]

        shape, slots = (len(self.lengths), int((start + sizes).max())), self.depth.shape[1]
        table, depth = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        table[place] = tokens
        depth[place] = self.lengths[row[owner]] + (above >= 0).sum(1)[owner] + within
        columns = np.arange(shape[1])
        seen = np.zeros((*shape, slots + shape[1]), dtype=bool)
        seen[:, columns, slots + columns] = True
        seen[*place, slots:] |= (columns >= start[owner, None]) & (columns <= place[1][:, None])
        token, level = np.nonzero(above[owner] >= 0)
        seen[place[0][token], place[1][token], above[owner[token], level]] = True

        self._remember(above, slots + start, sizes)
        self.visible = np.pad(self.visible, ((0, 0), (0, shape[1])))
        self.depth = np.concatenate([self.depth, depth], axis=1)
        hidden = self._run(table, depth, seen | self.visible[:, None, :])
        return hidden[torch.from_numpy(place[0]), torch.from_numpy(place[1])]

    def keep(self, rows: Ints) -> None:
        """Go on with some of the prompts only."""
        self.cache.batch_select_indices(torch.from_numpy(rows).to(self.model.device))
        self.lengths, self.visible, self.depth = self.lengths[rows], self.visible[rows], self.depth[rows]

    def _remember(self, above: Ints, start: Ints, sizes: Ints) -> None:
        """Number new chains after the old ones: the slots above them, and their own, which begin at `start`."""
        columns = np.arange(int(sizes.max()))
        own = np.where(columns < sizes[:, None], start[:, None] + columns, -1)
        new = np.concatenate([above, own], axis=1)
        old = np.pad(self.paths, ((0, 0), (0, new.shape[1] - self.paths.shape[1])), constant_values=-1)
        self.paths = np.concatenate([old, new])

    def _run(self, tokens: NDArray[Any], depth: NDArray[Any], allowed: NDArray[np.bool_]) -> Tensor:
        device = self.model.device
        query, keys = torch.from_numpy(depth).to(device), torch.from_numpy(self.depth).to(device)
        mask = attention_mask(torch.from_numpy(allowed).to(device), query, keys, self.model.config, self.model.dtype)
        output = causal_lm(self.model).base_model(
            input_ids=torch.from_numpy(tokens).to(device),
            attention_mask=mask,
            position_ids=query,
            cache=self.cache,
            use_cache=True,
        )
        return output.last_hidden_state * logit_scale(self.model.config)


def _shared_beginning(prompts: Sequence[NDArray[np.int32]]) -> int:
    """Return how many tokens all prompts begin with, short of any one's last; 0 where they are not worth a pass."""
    within = min(len(prompt) for prompt in prompts) - 1
    table = np.stack([prompt[:within] for prompt in prompts])
    shared = int(np.append((table == table[0]).all(0), False).argmin())
    return shared if shared * (len(prompts) - 1) >= _WORTH else 0


class PaddedTree:
    """A tree for models that take no ancestor masks: every chain's whole path, prompt included, is computed anew.

    Attributes:
        root: [B, H], the hidden state at each prompt's end.
        lengths: int64 [B], tokens of each prompt.
        paths: the tokens of each prompt and chain from the prompt's beginning.
    """

    def __init__(self, model: Any, prompts: Sequence[NDArray[np.int32]]) -> None:
        self.model = model
        self.lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        self.paths: list[NDArray[Any]] = list(prompts)
        self.root = self._run(self.paths, np.ones(len(prompts), dtype=np.int64))

    def append(self, row: Ints, parent: Ints, tokens: Ints, sizes: Ints) -> Tensor:
        """Run chains; arguments and result as for `TokenTree.append`."""
        parts = np.split(tokens, np.cumsum(sizes)[:-1])
        paths = [np.concatenate([self.paths[before], part]) for before, part in zip(parent, parts, strict=True)]
        self.paths += paths
        return self._run(paths, sizes)

    def keep(self, rows: Ints) -> None:
        """Go on with some of the prompts only."""
        self.lengths = self.lengths[rows]

    def _run(self, sequences: list[NDArray[Any]], sizes: Ints) -> Tensor:
        """Return the hidden states of each sequence's last `sizes` tokens, [sum sizes, H], scaled for the head."""
        ragged = Ragged.of(sequences)
        wanted = Ragged(ranges(ragged.lengths - sizes, sizes), sizes)
        passes, order = make_passes(ragged, wanted, Layout(forest=False, pass_tokens=_PASS_TOKENS))
        device = self.model.device
        hidden = [
            forest_hidden(self.model, part["tokens"].to(device)).flatten(0, 1)[part["nodes"].to(device)]
            for part in passes
        ]
        return torch.cat(hidden)[torch.from_numpy(np.argsort(order)).to(device)]
