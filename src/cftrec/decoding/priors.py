"""What is expected of anyone, without a history: log prior(y) down the catalogue's trie, for a named prior.

Every prior is normalised as the model's catalogue softmax is: at each trie node over the tokens that continue some
title. So log p(y | h) - log prior(y), the history's effect, is a difference of log probabilities over one and the same
set of items, token by token.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cftrec.decoding.paths import item_log_probs
from cftrec.errors import InputError
from cftrec.ragged import Ragged, ranges
from cftrec.text.catalogue import Catalogue
from cftrec.text.trie import Trie

PRIORS = ("counts", "trained", "counterfactual")
SMOOTHING = 0.5
"""Events added to every item's training events: the estimator of Krichevsky and Trofimov (1981), Jeffreys' prior."""
_ROW_ITEMS = 256  # titles that grow out of one copy of the prompt: attention within a row is quadratic
_ROWS = 32  # copies of the prompt run at once


@dataclass(frozen=True, eq=False)
class Prior:
    """A named prior over the catalogue.

    Where no title's tokens begin another's, which the closing tokens see to, the prior of all distinct titles sums to
    1. Items that share a title share its prior, as they share its log p.

    Attributes:
        name: one of `PRIORS`.
        trie: the catalogue's, n nodes and I items.
        steps: float64 [n], the log of the share of the parent's probability that goes on through each node (nats); 0 at
            the root and where the token is forced.
    """

    name: str
    trie: Trie
    steps: NDArray[np.float64]

    @cached_property
    def items(self) -> NDArray[np.float64]:
        """Log prior of each item, float64 [I], nats."""
        return np.add.reduceat(self.steps[self.trie.paths], self.trie.offsets[:-1])

    def tokens(self, items: ArrayLike) -> Ragged:
        """Return the log prior of each token of some items, float64, one run an item; a run adds up to the item's."""
        chosen = np.asarray(items, dtype=np.int64)
        lengths = self.trie.offsets[chosen + 1] - self.trie.offsets[chosen]
        return Ragged(self.steps[self.trie.paths[ranges(self.trie.offsets[chosen], lengths)]], lengths)


def counts_prior(trie: Trie, counts: ArrayLike, smoothing: float = SMOOTHING) -> Prior:
    """Return the prior "counts": an item's share of the training events, with additive smoothing.

    An item's mass is its events plus `smoothing`, a node's the sum of the items under it; a token has the log of the
    share of the node's mass that goes on through its child.

    Args:
        trie: the catalogue's, n nodes and I items.
        counts: int [I], training events of each item.
        smoothing: events added to every item; above 0, so that what was never seen has a probability.

    Raises:
        InputError: a smoothing that is not above 0, or another number of counts than of items.
    """
    events = np.asarray(counts, dtype=np.int64)
    if not 0 < smoothing < np.inf:
        raise InputError(f"smoothing {smoothing}: must be above 0, or an item without training events has no log prior")
    if events.shape != trie.item_node.shape:
        raise InputError(f"{events.size} counts for {trie.item_node.size} items; give one for each item")
    # In preorder a subtree's items are adjacent; whole numbers add up without rounding.
    before = np.concatenate(([0], np.cumsum(events[trie.terminal_items])))
    begin, end = trie.terminal_offsets[:-1], trie.terminal_offsets[trie.end]
    mass = before[end] - before[begin] + smoothing * (end - begin)
    above = trie.parent[1:]
    onward = np.bincount(above, weights=mass[1:], minlength=len(trie))[above]
    return Prior("counts", trie, np.concatenate(([0.0], np.log(mass[1:] / onward))))


def model_prior(name: str, model: Any, catalogue: Catalogue, prompt: NDArray[np.int32], batching: str) -> Prior:
    """Return a model's own log p of every title after the prompt without history, under the catalogue softmax.

    Args:
        name: "trained" or "counterfactual".
        model: a transformers causal language model in eval mode.
        catalogue: the items.
        prompt: x_0, int32 [tokens].
        batching: how the model runs titles together, "forest" or "padded".
    """
    trie = catalogue.trie
    steps = np.zeros(len(trie))
    order = trie.terminal_items.astype(np.int64)  # neighbours share beginnings
    for begin in range(0, len(order), _ROWS * _ROW_ITEMS):
        items = order[begin : begin + _ROWS * _ROW_ITEMS]
        sizes = np.diff(np.append(np.arange(0, len(items), _ROW_ITEMS), len(items)))
        rows = Ragged(items, sizes)
        found = item_log_probs(model, catalogue, [prompt] * len(sizes), rows, batching=batching)
        steps[trie.paths[ranges(trie.offsets[items], found.lengths)]] = found.values
    return Prior(name, trie, steps)
