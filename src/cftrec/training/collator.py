"""From samples to an optimizer step's forests: token arrays only, ready for the device."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from cftrec.data import Dataset
from cftrec.forest.build import Ints
from cftrec.forest.rows import Row, cut_rows, pack_passes, single_rows
from cftrec.objective.weights import gain_weights, token_weights
from cftrec.text.catalogue import Catalogue
from cftrec.text.prompt import Prompt

Batch = dict[str, Any]


def window_starts(places: Ints, window: int, stride: int) -> Ints:
    """Return where each sample's window begins in its user's sequence.

    The start moves every `stride` items, so a sample sees between window - stride + 1 and window items (all of them
    where there are no more), and neighbouring samples share the beginning of their prompts.

    Args:
        places: int64 [n], a target's place in its user's sequence, from 0; the history is what stands before.
        window: W, most items seen.
        stride: s, from 1 (every sample sees its W last items) to W.
    """
    return np.where(places <= window, 0, -(-(places - window) // stride) * stride)


class Samples(TorchDataset[int]):
    """The samples of a split: event positions of a dataset, each with its window.

    Attributes:
        positions: int64 [n], event positions of the targets.
        starts: int64 [n], event position where each history's window begins.
        users: int64 [n].
    """

    def __init__(self, data: Dataset, split: str, window: int, stride: int) -> None:
        self.positions = data.targets(split)
        self.users = data.user_of(self.positions)
        first = data.offsets[self.users]
        self.starts = first + window_starts(self.positions - first, window, stride)

    def groups(self, sampler: str) -> Ints:
        """Return the group of each sample that shuffling keeps together: "windows", "users" or "random"."""
        if sampler == "windows":
            return self.starts  # event positions are unique over users, so a start names user and window
        return self.users if sampler == "users" else np.arange(len(self.positions))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.positions)

    def __getitem__(self, sample: int) -> int:
        """Return the sample's number, which is all the collator needs."""
        return sample


@dataclass(frozen=True)
class Scored:
    """Which tokens of each item's sequence are weighted, as one ragged array.

    Attributes:
        offsets: int64 [I + 1].
        places: int64 [offsets[-1]], places in the item's sequence: all of them under the vocabulary softmax, those
            where the catalogue leaves a choice under the catalogue softmax (the others are forced and have no loss).
        nodes: int64 [offsets[-1]], the trie node at which each of these tokens is chosen.
        reached: int64 [offsets[-1]], the trie node to which it leads.
    """

    offsets: Ints
    places: Ints
    nodes: Ints
    reached: Ints

    @classmethod
    def of(cls, catalogue: Catalogue, softmax: str) -> "Scored":
        """Find the weighted tokens of every item under a softmax."""
        trie = catalogue.trie
        nodes = trie.parent[trie.paths].astype(np.int64)
        lengths = np.diff(catalogue.offsets)
        places = np.arange(len(nodes)) - np.repeat(catalogue.offsets[:-1], lengths)
        keep = trie.choices[nodes] if softmax == "catalogue" else np.ones(len(nodes), dtype=bool)
        kept = np.concatenate(([0], np.cumsum(keep)))
        return cls(kept[catalogue.offsets], places[keep], nodes[keep], trie.paths[keep].astype(np.int64))

    def of_items(self, values: Ints, items: Ints) -> list[Ints]:
        """Return each item's part of `places`, `nodes` or `reached`."""
        return [values[self.offsets[item] : self.offsets[item + 1]] for item in items]


@dataclass
class StepCollator:
    """Makes sample numbers into the tensors of `CFTStep`.

    Attributes:
        data: the interaction log.
        samples: which events are targets, and their windows.
        prompt: x_h and x_0.
        catalogue: the items' token sequences.
        softmax: "vocabulary" or "catalogue".
        beta: weight of a target's last token, or of one without information gain.
        counterfactual: whether the step needs f(x_0).
        row_tokens: bound on a row; None: padded batching, for models that cannot run on forests.
        pass_tokens: bound on a pass.
        weighting: "linear", "uniform" or "information-gain".
        weighted_terms: "both", "normal" or "effect"; the other term weighs each token 1.
    """

    data: Dataset
    samples: Samples
    prompt: Prompt
    catalogue: Catalogue
    softmax: str
    beta: float
    counterfactual: bool
    row_tokens: int | None
    pass_tokens: int
    weighting: str = "linear"
    weighted_terms: str = "both"
    scored: Scored = field(init=False)
    gains: torch.Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Find the weighted tokens of every item once."""
        self.scored = Scored.of(self.catalogue, self.softmax)
        if self.weighting == "information-gain":
            self.gains = gain_weights(self.catalogue.trie, self.catalogue.counts, beta=self.beta)

    def __call__(self, numbers: Sequence[int]) -> Batch:
        """Return the nested dict of tensors that `CFTStep.forward` documents."""
        chosen = np.asarray(numbers, dtype=np.int64)
        items = self.data.events[self.samples.positions[chosen]].astype(np.int64)
        places = self.scored.of_items(self.scored.places, items)
        prompts = [self._prompt(int(sample)) for sample in chosen]
        sequences, predictors = self._with_targets(prompts, items, places)
        passes, order = make_passes(sequences, predictors, self.row_tokens, self.pass_tokens)

        flat = np.concatenate(places)
        tokens = self.catalogue.tokens[np.repeat(self.catalogue.offsets[items], [len(p) for p in places]) + flat]
        weights = self._weights(items)[torch.from_numpy(order)]
        alike = torch.ones_like(weights)
        batch: Batch = {
            "factual": passes,
            "targets": torch.from_numpy(tokens[order].astype(np.int64)),
            "weights": alike if self.weighted_terms == "effect" else weights,
        }
        if self.weighted_terms != "both":
            batch["effect_weights"] = alike if self.weighted_terms == "normal" else weights
        naive = sum(len(sequence) for sequence in sequences)
        if self.counterfactual:
            batch["counterfactual"], rows = self._without_history(items)
            batch["rows"] = torch.from_numpy(rows[order])
            naive += sum(
                len(self.prompt.without_history) + len(s) - len(p) for s, p in zip(sequences, prompts, strict=True)
            )
        if self.softmax == "catalogue":
            nodes = np.concatenate(self.scored.of_items(self.scored.nodes, items))[order]
            batch["choice_offsets"], batch["choice_tokens"] = choices_at(self.catalogue, nodes)
        computed = sum(part["tokens"].numel() for part in passes + batch.get("counterfactual", []))
        batch["counts"] = torch.tensor([len(chosen), computed, naive])
        return batch

    def _weights(self, items: Ints) -> torch.Tensor:
        """Return the weights of the targets' weighted tokens, target after target."""
        if self.gains is not None:
            return self.gains[torch.from_numpy(np.concatenate(self.scored.of_items(self.scored.reached, items)))]
        lengths = np.diff(self.scored.offsets)[items]
        return token_weights(lengths.tolist(), beta=1.0 if self.weighting == "uniform" else self.beta)

    def _prompt(self, sample: int) -> Any:
        history = self.data.events[self.samples.starts[sample] : self.samples.positions[sample]]
        # One budget for all targets: samples of a window then drop the same items and go on sharing it.
        return self.prompt.factual([self.catalogue.sequence(int(seen)) for seen in history], self.catalogue.longest)

    def _with_targets(
        self, prompts: Sequence[Any], items: Ints, places: Sequence[Ints]
    ) -> tuple[list[Any], list[Ints]]:
        """Append to each prompt its target's tokens up to the last weighted one, which itself is no input.

        Returns:
            the sequences, and for each weighted token the place in its sequence that predicts it.
        """
        sequences, predictors = [], []
        for prompt, item, place in zip(prompts, items, places, strict=True):
            inputs = self.catalogue.sequence(int(item))[: place[-1] if len(place) else 0]
            sequences.append(np.concatenate([prompt, inputs]))
            predictors.append(len(prompt) - 1 + place)
        return sequences, predictors

    def _without_history(self, items: Ints) -> tuple[list[Batch], Ints]:
        """Return the passes of x_0, each distinct target once, and each weighted token's row of their hidden states."""
        distinct, which = np.unique(items, return_inverse=True)
        places = self.scored.of_items(self.scored.places, distinct)
        sequences, predictors = self._with_targets([self.prompt.counterfactual()] * len(distinct), distinct, places)
        passes, order = make_passes(sequences, predictors, self.row_tokens, self.pass_tokens)
        row_of = np.argsort(order)
        starts = np.cumsum([0, *(len(place) for place in places)])
        return passes, np.concatenate([row_of[starts[i] : starts[i + 1]] for i in which])


def make_passes(
    sequences: Sequence[Any], predictors: Sequence[Ints], row_tokens: int | None, pass_tokens: int
) -> tuple[list[Batch], Ints]:
    """Lay sequences out as passes of rows.

    Args:
        sequences: token sequences.
        predictors: for each sequence the places whose hidden states are wanted.
        row_tokens: bound on a row; None: nothing is shared, every sequence is a row of its own.
        pass_tokens: bound on a pass.

    Returns:
        Passes with `tokens`, `depth`, `end` int64 [R, L] (only `tokens` where nothing is shared) and `nodes` int64
        [M], the wanted states in the flattened [R * L]; and the order int64 [sum M] in which all passes together yield
        them, as indices into the concatenated predictors.
    """
    starts = np.cumsum([0, *(len(place) for place in predictors)])
    passes, order = [], []
    laid_out = single_rows(sequences) if row_tokens is None else cut_rows(sequences, row_tokens)
    for rows in pack_passes(laid_out, pass_tokens):
        width = len(rows[0])
        nodes = []
        for number, row in enumerate(rows):
            for member, path in zip(row.members, row.forest.paths, strict=True):
                nodes.append(number * width + path[predictors[member]])
                order.append(np.arange(starts[member], starts[member + 1]))
        part = _padded(rows, width)
        if row_tokens is None:  # nothing to tell a causal model
            part = {"tokens": part["tokens"]}
        passes.append(part | {"nodes": torch.from_numpy(np.concatenate(nodes))})
    return passes, np.concatenate(order)


def _padded(rows: Sequence[Row], width: int) -> Batch:
    """Stack rows; a padding node attends to itself alone."""
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    depth = np.zeros_like(tokens)
    end = np.tile(np.arange(1, width + 1), (len(rows), 1))
    for number, row in enumerate(rows):
        size = len(row)
        tokens[number, :size], depth[number, :size], end[number, :size] = (
            row.forest.tokens,
            row.forest.depth,
            row.forest.end,
        )
    return {"tokens": torch.from_numpy(tokens), "depth": torch.from_numpy(depth), "end": torch.from_numpy(end)}


def choices_at(catalogue: Catalogue, nodes: Ints) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens that continue some title at each trie node, as offsets int64 [n + 1] and tokens int64."""
    trie = catalogue.trie
    counts = trie.child_counts[nodes]
    offsets = np.concatenate(([0], np.cumsum(counts)))
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    children = trie.children[np.repeat(trie.child_offsets[nodes], counts) + within]
    return torch.from_numpy(offsets), torch.from_numpy(trie.token[children].astype(np.int64))
