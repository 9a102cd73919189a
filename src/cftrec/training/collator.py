"""From samples to an optimizer step's forests: token arrays only, ready for the device."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from cftrec.data import Dataset
from cftrec.data.windows import window_starts
from cftrec.errors import InputError
from cftrec.forest.passes import Layout, Pass, join, make_passes
from cftrec.objective.weights import gain_weights, token_weights
from cftrec.ragged import Ints, Ragged, ranges
from cftrec.text.catalogue import Catalogue
from cftrec.text.prompt import Prompt
from cftrec.text.prompt_table import PromptTable

Batch = dict[str, Any]


class Samples(TorchDataset[int]):
    """The samples of a split, or some of them drawn at random: event positions of a dataset, each with its window.

    Args:
        data: the interaction log.
        split: which targets.
        window: most items seen.
        stride: by how many items the window moves.
        sample: how many are drawn; None: all.
        seed: of the draw, on which nothing else depends.

    Raises:
        InputError: there are fewer than `sample`.

    Attributes:
        positions: int64 [n], event positions of the targets.
        starts: int64 [n], event position where each history's window begins.
        users: int64 [n].
    """

    def __init__(
        self, data: Dataset, split: str, window: int, stride: int, sample: int | None = None, seed: int = 0
    ) -> None:
        self.positions = data.targets(split)
        if sample is not None:
            self.positions = _drawn(self.positions, sample, seed)
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


def _drawn(positions: Ints, sample: int, seed: int) -> Ints:
    if sample > len(positions):
        raise InputError(f"option sample={sample}: there are {len(positions):,} training samples; leave it out for all")
    return np.sort(np.random.default_rng(seed).choice(positions, sample, replace=False))


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

    def of_items(self, items: Ints) -> Ragged:
        """Return for each item where its weighted tokens stand in `places`, `nodes` and `reached`."""
        counts = self.offsets[items + 1] - self.offsets[items]
        return Ragged(ranges(self.offsets[items], counts), counts)

    @cached_property
    def inputs(self) -> Ints:
        """How many of each item's tokens are inputs, int64 [I]: those before its last weighted one."""
        last = self.places[np.maximum(self.offsets[1:] - 1, 0)] if len(self.places) else self.offsets[1:]
        return np.where(np.diff(self.offsets) > 0, last, 0)


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
        layout: how sequences are put into passes.
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
    layout: Layout
    weighting: str = "linear"
    weighted_terms: str = "both"
    scored: Scored = field(init=False)
    table: PromptTable = field(init=False)
    weights: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Find once what does not depend on the step: every item's weighted tokens, their weights, its prompt parts."""
        self.scored = Scored.of(self.catalogue, self.softmax)
        self.table = PromptTable.of(self.prompt, self.catalogue)
        if self.weighting == "information-gain":
            gains = gain_weights(self.catalogue.trie, self.catalogue.counts, beta=self.beta)
            self.weights = gains[torch.from_numpy(self.scored.reached)]
        else:
            lengths = torch.from_numpy(np.diff(self.scored.offsets))
            self.weights = token_weights(lengths, beta=1.0 if self.weighting == "uniform" else self.beta)

    def __call__(self, numbers: Sequence[int]) -> Batch:
        """Return the nested dict of tensors that `CFTStep.forward` documents; a number of -1 is no sample."""
        chosen = np.asarray(numbers, dtype=np.int64)
        chosen = chosen[chosen >= 0]
        positions, starts = self.samples.positions[chosen], self.samples.starts[chosen]
        items = self.data.events[positions].astype(np.int64)
        seen = positions - starts
        histories = Ragged(self.data.events[ranges(starts, seen)], seen)
        sequences = self.table.factual(histories, items, self.scored.inputs[items])
        weighted = self.scored.of_items(items)
        passes, order = self._passes(sequences, items, weighted)

        which = weighted.values[order]
        tokens = self.catalogue.tokens[
            np.repeat(self.catalogue.offsets[items], weighted.lengths)[order] + self.scored.places[which]
        ]
        weights = self.weights[torch.from_numpy(which)]
        alike = torch.ones_like(weights)
        batch: Batch = {
            "factual": passes,
            "targets": torch.from_numpy(tokens.astype(np.int64)),
            "weights": alike if self.weighted_terms == "effect" else weights,
        }
        if self.weighted_terms != "both":
            batch["effect_weights"] = alike if self.weighted_terms == "normal" else weights
        naive = len(sequences.values)
        if self.counterfactual:
            without_history, rows = self._without_history(items)
            together = join(passes, without_history, self.layout)
            batch |= {"counterfactual": without_history} if together is None else {"factual": together}
            batch["rows"] = torch.from_numpy(rows[order])
            naive += len(items) * len(self.prompt.without_history) + int(self.scored.inputs[items].sum())
        if self.softmax == "catalogue":
            nodes = self.scored.nodes[which]
            batch["choice_offsets"], batch["choice_tokens"] = choices_at(self.catalogue, nodes)
            # Until it, all titles are one path, so any of them names its node.
            batch["first_choices"] = torch.from_numpy(nodes == self.scored.nodes[:1])
        computed = sum(part["tokens"].numel() for part in batch["factual"] + batch.get("counterfactual", []))
        batch["counts"] = torch.tensor([len(chosen), computed, naive])
        return batch

    def _without_history(self, items: Ints) -> tuple[list[Pass], Ints]:
        """Return the passes of x_0, each distinct target once, and each weighted token's row of their hidden states."""
        distinct, which = np.unique(items, return_inverse=True)
        weighted = self.scored.of_items(distinct)
        sequences = self.table.counterfactual(distinct, self.scored.inputs[distinct])
        passes, order = self._passes(sequences, distinct, weighted)
        row_of = np.empty_like(order)
        row_of[order] = np.arange(len(order))
        return passes, row_of[ranges(weighted.starts[which], weighted.lengths[which])]

    def _passes(self, sequences: Ragged, items: Ints, weighted: Ragged) -> tuple[list[Pass], Ints]:
        """Lay out prompts with their targets' inputs; a weighted token is predicted by the token before it."""
        prompts = sequences.lengths - self.scored.inputs[items]
        places = np.repeat(prompts - 1, weighted.lengths) + self.scored.places[weighted.values]
        return make_passes(sequences, Ragged(places, weighted.lengths), self.layout)


def choices_at(catalogue: Catalogue, nodes: Ints) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens that continue some title at each trie node, as offsets int64 [n + 1] and tokens int64."""
    trie = catalogue.trie
    counts = trie.child_counts[nodes].astype(np.int64)
    children = trie.children[ranges(trie.child_offsets[nodes], counts)]
    offsets = np.concatenate(([0], np.cumsum(counts)))
    return torch.from_numpy(offsets), torch.from_numpy(trie.token[children].astype(np.int64))
