"""Best-first search over the catalogue's trie: the exact k best items, with a certificate.

The log probability of a beginning bounds that of every title under it. So once k items are known and no open beginning
is above the k-th, nothing can beat them. Many users are searched at once: their most promising beginnings are expanded
together in one forward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cftrec.decoding.choices import child_log_probs
from cftrec.decoding.tree import open_tree
from cftrec.forest.backbone import head_of
from cftrec.text.catalogue import Catalogue
from cftrec.text.trie import Trie

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Adjust = Callable[[Ints, Ints, Ints, Ints, Floats], Floats]

BUDGET = 2000
"""Most beginnings expanded for a user before the search ends without a certificate."""
_WIDTH = 12  # beginnings of a user expanded in one forward pass: more waste tokens, fewer waste passes


@dataclass(frozen=True)
class SearchResult:
    """The best items of B prompts.

    Attributes:
        items: int32 [B, k], best first, equal scores by item order; -1 where fewer than k items may be recommended.
        scores: float64 [B, k], log p(item | prompt); -inf where there is no item.
        exact: bool [B], whether the search proved that no other item is better.
        expanded: int64 [B], beginnings expanded.
    """

    items: NDArray[np.int32]
    scores: Floats
    exact: NDArray[np.bool_]
    expanded: Ints


@dataclass(frozen=True)
class _Open:
    """Beginnings to expand, as arrays of one length: the trie node after a choice, and how likely it is."""

    row: Ints  # the user
    node: Ints
    score: Floats  # log p of the beginning up to the node
    parent: Ints  # the tree's prompt or chain whose hidden state made the choice

    def __getitem__(self, index: Any) -> "_Open":
        return _Open(self.row[index], self.node[index], self.score[index], self.parent[index])

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class _Found:
    """Items with their scores, at most k a user, ordered by user and then best first."""

    row: Ints
    item: Ints
    score: Floats

    def merged(self, row: Ints, item: Ints, score: Floats, k: int) -> "_Found":
        """Take more items in and keep each user's k best."""
        every = _Found(
            np.concatenate([self.row, row]), np.concatenate([self.item, item]), np.concatenate([self.score, score])
        )
        order = np.lexsort((every.item, -every.score, every.row))
        rows = every.row[order]
        order = order[_rank_within(rows) < k]
        return _Found(every.row[order], every.item[order], every.score[order])

    def bar(self, rows: int, k: int) -> Floats:
        """Return the score that a beginning must beat, [rows]: the k-th best item's, or -inf while there are fewer."""
        bar = np.full(rows, -np.inf)
        kth = _rank_within(self.row) == k - 1
        bar[self.row[kth]] = self.score[kth]
        return bar


@torch.no_grad()
def search(
    model: Any,
    catalogue: Catalogue,
    prompts: Sequence[NDArray[np.int32]],
    k: int,
    *,
    softmax: str = "catalogue",
    excluded: Sequence[NDArray[Any]] | None = None,
    budget: int = BUDGET,
    batching: str = "forest",
    adjust: Adjust | None = None,
) -> SearchResult:
    """Find each prompt's k most likely items of the catalogue.

    Args:
        model: a transformers causal language model in eval mode.
        catalogue: I items.
        prompts: B token sequences, none empty.
        k: items wanted, at least 1.
        softmax: "catalogue": log p normalises over the tokens that continue some title, and forced tokens cost nothing;
            "vocabulary": over all tokens. Excluded items stay in the normaliser.
        excluded: for each prompt the items not to return.
        budget: most beginnings expanded for a prompt.
        batching: how the model runs beginnings together, "forest" or "padded" (`open_tree`).
        adjust: other log probabilities of the children of trie nodes, none above 0, called with each node's prompt [n],
            the nodes [n], and for each child its node's place among them (ascending), its own node, and log p [m];
            None: the model's.
    """
    return _Search(model, catalogue, prompts, k, softmax, excluded, budget, batching, adjust).run()


class _Search:
    """The state of one search; rows are the users still being searched."""

    def __init__(
        self,
        model: Any,
        catalogue: Catalogue,
        prompts: Sequence[NDArray[np.int32]],
        k: int,
        softmax: str,
        excluded: Sequence[NDArray[Any]] | None,
        budget: int,
        batching: str,
        adjust: Adjust | None,
    ) -> None:
        self.adjust = adjust
        self.trie, self.head, self.k, self.budget = catalogue.trie, head_of(model), k, budget
        self.forced_free = softmax == "catalogue"
        count, size = len(prompts), len(catalogue)
        self.size = size
        pairs = [row * size + np.asarray(items, dtype=np.int64) for row, items in enumerate(excluded or [])]
        self.banned = np.unique(np.concatenate(pairs)) if pairs else np.empty(0, dtype=np.int64)
        self.chain_end = _chain_ends(self.trie)
        self.users = np.arange(count)
        self.in_tree = self.users  # whose keys and values the tree still holds, ascending
        self.found = _Found(*_empty(3))
        self.expanded = np.zeros(count, dtype=np.int64)
        self.exact = np.zeros(count, dtype=bool)
        self.tree = open_tree(model, prompts, batching)
        self.expansions = count  # the tree's prompts and chains so far
        zeros = np.zeros(count, dtype=np.int64)
        root = _Open(self.users, zeros, np.zeros(count), self.users)
        self.open = _Open(*_empty(4))
        self._choose(self.tree.root, root, self.users)

    def run(self) -> SearchResult:
        """Expand until every user has a certificate or has spent the budget."""
        while len(self.users):
            bar = self.found.bar(len(self.exact), self.k)
            self.open = self.open[self.open.score > bar[self.open.row]]
            waiting = np.bincount(self.open.row, minlength=len(self.exact)) > 0
            self.exact[self.users[~waiting[self.users]]] = True
            self._go_on_with(self.users[waiting[self.users] & (self.expanded[self.users] < self.budget)])
            if len(self.users):
                self._expand(self._best())
        items = np.full((len(self.exact), self.k), -1, dtype=np.int32)
        scores = np.full(items.shape, -np.inf)
        rank = _rank_within(self.found.row)
        items[self.found.row, rank], scores[self.found.row, rank] = self.found.item, self.found.score
        return SearchResult(items, scores, self.exact, self.expanded)

    def _go_on_with(self, users: Ints) -> None:
        """Drop finished users; their rows leave the tree once that halves it, since this copies what is kept."""
        if len(users) < len(self.users):
            self.open = self.open[np.isin(self.open.row, users)]
        if 2 * len(users) <= len(self.tree.lengths):
            self.tree.keep(np.searchsorted(self.in_tree, users))
            self.in_tree = users
        self.users = users

    def _best(self) -> _Open:
        """Take each user's most likely beginnings out of the open ones, ordered by user."""
        order = np.lexsort((-self.open.score, self.open.row))
        left = np.minimum(_WIDTH, self.budget - self.expanded)
        rows = self.open.row[order]
        first = _rank_within(rows) < left[rows]
        chosen, rest = self.open[order[first]], self.open[order[~first]]
        self.open = rest
        np.add.at(self.expanded, chosen.row, 1)
        return chosen

    def _expand(self, chosen: _Open) -> None:
        """Run the chosen beginnings' tokens up to their next choice, and open what can follow."""
        end = self.chain_end[chosen.node]
        leaf = self.trie.child_counts[end] == 0
        sizes = end - chosen.node + 1 - leaf  # a title's last token predicts nothing
        first = np.cumsum(sizes) - sizes
        owner = np.repeat(np.arange(len(chosen)), sizes)
        within = np.arange(len(owner)) - first[owner]
        node = chosen.node[owner] + within
        row = np.searchsorted(self.in_tree, chosen.row)
        hidden = self.tree.append(row, chosen.parent, self.trie.token[node].astype(np.int64), sizes)
        expansion = self.expansions + np.arange(len(chosen))
        self.expansions += len(chosen)

        score = chosen.score
        if not self.forced_free:
            score = self._follow(hidden, owner, within, node, first, sizes, chosen, end)
        inner = ~leaf
        ends = _Open(chosen.row[inner], end[inner], score[inner], expansion[inner])
        last = torch.from_numpy((first + sizes - 1)[inner])
        self._choose(hidden[last], ends, expansion[inner])

    def _follow(
        self, hidden: Tensor, owner: Ints, within: Ints, node: Ints, first: Ints, sizes: Ints, chosen: _Open, end: Ints
    ) -> Floats:
        """Add up log p along forced tokens under the vocabulary softmax, and find the items that end on the way."""
        inside = np.flatnonzero(node < end[owner])
        _, reached, log_p = self._children(hidden[torch.from_numpy(inside)], chosen.row[owner[inside]], node[inside])
        steps = np.zeros(len(owner) + 1)
        steps[inside + 1] = log_p
        along = np.cumsum(steps)
        owner_in = owner[inside]
        score = chosen.score[owner_in] + along[inside + 1] - along[first[owner_in]]
        self._find(chosen.row[owner_in], reached, reached + 1, score)
        total = chosen.score.copy()
        np.add.at(total, owner_in, log_p)
        return total

    def _choose(self, hidden: Tensor, at: _Open, expansion: Ints) -> None:
        """Open the children of trie nodes whose hidden states are known, and find the items that need no more."""
        index, child, log_p = self._children(hidden, at.row, at.node)
        new = _Open(at.row[index], child, at.score[index] + log_p, expansion[index])
        stop = self.chain_end[child] if self.forced_free else child
        self._find(new.row, child, stop + 1, new.score)
        goes_on = self.trie.child_counts[stop] > 0
        self.open = _joined(self.open, new[goes_on])

    def _children(self, hidden: Tensor, rows: Ints, nodes: Ints) -> tuple[Ints, Ints, Floats]:
        """Return the children of each user's nodes with their log p, as `child_log_probs` does, adjusted."""
        index, child, log_p = child_log_probs(hidden, nodes, self.trie, self.head, self.forced_free)
        return index, child, log_p if self.adjust is None else self.adjust(rows, nodes, index, child, log_p)

    def _find(self, row: Ints, begin: Ints, stop: Ints, score: Floats) -> None:
        """Take in the items that end at trie nodes begin:stop, unless excluded; all have their beginning's score."""
        offsets = self.trie.terminal_offsets
        counts = offsets[stop] - offsets[begin]
        owner = np.repeat(np.arange(len(row)), counts)
        within = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
        item = self.trie.terminal_items[offsets[begin][owner] + within].astype(np.int64)
        allowed = ~np.isin(row[owner] * self.size + item, self.banned)
        owner, item = owner[allowed], item[allowed]
        self.found = self.found.merged(row[owner], item, score[owner], self.k)


def _chain_ends(trie: Trie) -> Ints:
    """Return for each node where its chain of forced tokens ends: the next node without exactly one child.

    An only child follows its parent in preorder, so a chain's nodes are consecutive.
    """
    stops = np.where(trie.child_counts == 1, len(trie), np.arange(len(trie)))
    return np.minimum.accumulate(stops[::-1])[::-1]


def _rank_within(rows: Ints) -> Ints:
    """Return each element's rank among the equal ones of a sorted array, from 0."""
    index = np.arange(len(rows))
    new = np.ones(len(rows), dtype=bool)
    new[1:] = rows[1:] != rows[:-1]
    return index - np.maximum.accumulate(np.where(new, index, 0)) if len(rows) else index


def _joined(a: _Open, b: _Open) -> _Open:
    return replace(
        a,
        **{name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in ("row", "node", "score", "parent")},
    )


def _empty(count: int) -> list[Any]:
    """Return `count` empty arrays; the one of scores is float."""
    return [np.empty(0, dtype=np.float64 if place == 2 else np.int64) for place in range(count)]
