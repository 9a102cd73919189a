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
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from cftrec.forest import Forest
from cftrec.forest.backbone import causal_lm, forest_hidden, logit_scale
from cftrec.forest.masks import attention_mask
from cftrec.forest.passes import Layout, make_passes
from cftrec.forest.rows import cut_rows
from cftrec.ragged import Ragged, ranges

Ints = NDArray[np.int64]
_PASS_TOKENS = 4096  # a state-space layer without kernels holds a whole state for each
_ROW_TOKENS = 512  # of prompts computed as one forest: longer rows share more, and attention is quadratic
_ROOM = 128  # slots a layer takes at a time: few more than are used, and seldom does one move what it holds


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

    The prompts are computed as prefix forests, so that what they begin with is computed once a forest, and little is
    padded. Every appended token takes a slot, the same column in all B rows; columns that a row does not use stay
    invisible.

    Attributes:
        root: [B, H], the hidden state at each prompt's end.
        lengths: int64 [B], tokens of each prompt.
        paths: int64 [prompts and chains, longest], the slots on each one's way from the prompt's end; -1 fills up,
            in any place.
    """

    def __init__(self, model: Any, prompts: Sequence[NDArray[np.int32]]) -> None:
        self.model = model
        self.lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        self.paths = np.full((len(prompts), 1), -1, dtype=np.int64)
        # Layers of one kind: a cache made for a model drops old slots of sliding ones, and a tree's are not in order.
        self.cache = Cache(layer_class_to_replicate=_Slots)
        width = int(self.lengths.max())
        self.visible = np.arange(width) < self.lengths[:, None]
        rows = cut_rows(Ragged.of(prompts), max(_ROW_TOKENS, 2 * width))
        line = np.repeat(np.arange(len(rows)), [len(row.members) for row in rows])
        member = np.concatenate([row.members for row in rows])
        nodes = np.zeros((len(prompts), width), dtype=np.int64)
        nodes[np.repeat(member, self.lengths[member]), ranges(np.zeros_like(member), self.lengths[member])] = (
            np.concatenate([path for row in rows for path in row.forest.paths])
        )
        line = line[np.argsort(member)]
        hidden = self._run_forests([row.forest for row in rows])
        self.root = hidden[torch.from_numpy(line), torch.from_numpy(nodes[np.arange(len(prompts)), self.lengths - 1])]
        for layer in self.cache.layers:
            layer.hold(*(_gathered(states, line, nodes) for states in (layer.keys, layer.values)))
        self.depth = np.tile(np.arange(width), (len(prompts), 1))

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

    def _run_forests(self, forests: list[Forest]) -> Tensor:
        """Run one forest a row; [forests, longest, H]."""
        columns = np.arange(max(len(forest.tokens) for forest in forests))
        tokens, depth, end = np.zeros((3, len(forests), len(columns)), dtype=np.int64)
        for row, forest in enumerate(forests):
            filled = slice(len(forest.tokens))
            tokens[row, filled], depth[row, filled], end[row, filled] = forest.tokens, forest.depth, forest.end
        above = (columns <= columns[:, None]) & (columns[:, None] < end[:, None, :])
        self.depth = depth
        return self._run(tokens, depth, above | np.eye(len(columns), dtype=bool))  # what fills up sees itself

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


class _Slots(DynamicLayer):
    """A layer's keys and values [B, heads, slots, D], with room behind them: what is appended moves nothing.

    Memory for all of them anew at each step, which the system has to clear, takes longer than their attention.
    """

    keys: Tensor
    values: Tensor
    room: tuple[Tensor, Tensor]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Begin without a slot."""
        super().lazy_initialization(key_states, value_states)
        self.hold(key_states[:, :, :0], value_states[:, :, :0])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append to the slots and return all of them; arguments and result are those of transformers' caches."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.keys.shape[2]
        size = held + key_states.shape[2]
        if size > self.room[0].shape[2]:
            self.room = (_with_room(self.keys, size + _ROOM), _with_room(self.values, size + _ROOM))
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, held:size] = new
        self.keys, self.values = (room[:, :, :size] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with some rows only."""
        self.hold(self.keys[indices], self.values[indices])

    def hold(self, keys: Tensor, values: Tensor) -> None:
        """Hold these instead."""
        self.keys, self.values = self.room = (keys, values)


def _with_room(states: Tensor, slots: int) -> Tensor:
    """Return states with so many slots, of which those behind the old ones are not filled."""
    room = states.new_empty((*states.shape[:2], slots, states.shape[3]))
    room[:, :, : states.shape[2]] = states
    return room


def _gathered(states: Tensor, line: Ints, nodes: Ints) -> Tensor:
    """Lay each prompt's keys or values out as a row of its own: of [rows, heads, L, D] make [B, heads, width, D]."""
    device = states.device
    rows, places = torch.from_numpy(line).to(device), torch.from_numpy(nodes).to(device)
    return states.transpose(1, 2)[rows[:, None], places].transpose(1, 2)


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
