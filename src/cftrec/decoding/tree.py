"""Keys and values of prompts and of whatever tree of tokens grows out of them; nothing is reordered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from cftrec.forest.backbone import causal_lm, logit_scale
from cftrec.forest.masks import attention_mask


class TokenTree:
    """B prompts run through a model, and tokens appended to them under ancestor masks.

    Every appended token takes a slot, the same column in all B rows; columns that a row does not use stay invisible.

    Attributes:
        root: [B, H], the hidden state at each prompt's end.
        lengths: int64 [B], tokens of each prompt.
        slots: columns so far.
    """

    def __init__(self, model: Any, prompts: Sequence[NDArray[np.int32]]) -> None:
        self.model = model
        self.lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        width = int(self.lengths.max())
        tokens = np.zeros((len(prompts), width), dtype=np.int64)
        self.visible = np.arange(width) < self.lengths[:, None]
        tokens[self.visible] = np.concatenate(prompts)
        self.depth = np.tile(np.arange(width), (len(prompts), 1))
        # No config: a cache made from one drops old slots of sliding layers, and slots of a tree are not in order.
        self.cache = DynamicCache()
        # Padding comes last, so a prompt needs no more than the causal mask.
        causal = np.tri(width, dtype=bool)[None].repeat(len(prompts), 0)
        hidden = self._run(tokens, self.depth, causal)
        self.root = hidden[torch.arange(len(prompts)), torch.from_numpy(self.lengths - 1)]

    @property
    def slots(self) -> int:
        """Number of columns that hold keys and values."""
        return self.depth.shape[1]

    def append(self, tokens: NDArray[np.int64], depth: NDArray[np.int64], seen: NDArray[np.bool_]) -> Tensor:
        """Run new tokens and keep their keys and values in m new slots.

        Args:
            tokens: [B, m].
            depth: [B, m], tokens before each on its path, the prompt included.
            seen: bool [B, m, slots + m], which slots a token attends to, itself included and the prompt's left out.

        Returns:
            [B, m, H] hidden states, scaled for the head.
        """
        fill = np.zeros(tokens.shape, dtype=bool)
        self.visible = np.concatenate([self.visible, fill], axis=1)
        self.depth = np.concatenate([self.depth, depth], axis=1)
        return self._run(tokens, depth, seen | self.visible[:, None, :])

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Go on with some of the prompts only."""
        self.cache.batch_select_indices(torch.from_numpy(rows).to(self.model.device))
        self.lengths, self.visible, self.depth = self.lengths[rows], self.visible[rows], self.depth[rows]

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
