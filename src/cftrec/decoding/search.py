"""Best-first search over the catalogue's trie: the exact k best items, with a certificate.

The log probability of a beginning bounds that of every title under it. So once k items are known and no open beginning
is above the k-th, nothing can beat them. Many users are searched at once: their most promising beginnings are expanded
together in one forward pass.

Three things can end a search early: a budget of beginnings, one of time, and a beam, which goes level by level and
drops what is not among a level's best. Then the likeliest beginning left aside bounds every title not found.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cftrec.decoding.choices import child_log_probs
from cftrec.decoding.rules import Allowed, Cap, within_caps
from cftrec.decoding.tree import open_tree
from cftrec.forest.backbone import head_of
from cftrec.ragged import ranges
from cftrec.text.catalogue import Catalogue

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Adjust = Callable[[Ints, Ints, Ints, Ints, Floats], Floats]

BUDGET = 2000
"""Most beginnings expanded for a user before the search ends without a certificate."""
_TOKENS = 20  # of a user's beginnings expanded in one forward pass, up to their next choices: more are wasted, and take
# fewer passes; a bound on the number of beginnings would leave users with short ones waiting for the others
_MOST = 2**62  # of a budget and of a beam, so that they fit int64 whatever is asked for


@dataclass(frozen=True)
class SearchResult:
    """The best items of B prompts.

    Attributes:
        items: int32 [B, k], best first, equal scores by item order (an item that was not looked into may have the last
            one's score, too); -1 where fewer than k items may be recommended, or an early end found fewer.
        scores: float64 [B, k], log p(item | prompt); -inf where there is no item.
        exact: bool [B], whether the search proved that no other item is better.
        expanded: int64 [B], beginnings expanded.
        bound: float64 [B], the highest log p that an item not found could have, where that could change the list; -inf
            where the list is exact.
    """

    items: NDArray[np.int32]
    scores: Floats
    exact: NDArray[np.bool_]
    expanded: Ints
    bound: Floats


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
    """Items with their scores, ordered by user and then best first.

    What can no longer come into a list is dropped: with at most one cap, all that is not in one. With several, a better
    item can free places that it takes away elsewhere, so all are kept.
    """

    row: Ints
    item: Ints
    score: Floats
    listed: NDArray[np.bool_]  # among the user's k best under the caps

    def merged(self, row: Ints, item: Ints, score: Floats, k: int, caps: Sequence[Cap]) -> "_Found":
        """Take more items in and list each user's k best anew."""
        row, item = np.concatenate([self.row, row]), np.concatenate([self.item, item])
        score = np.concatenate([self.score, score])
        order = np.lexsort((item, -score, row))
        row, item, score = row[order], item[order], score[order]
        listed = within_caps(row, item, caps) if caps else np.ones(len(row), dtype=bool)
        places = np.flatnonzero(listed)
        listed[places] = _rank_within(row[places]) < k
        kept = listed if len(caps) < 2 else slice(None)
        return _Found(row[kept], item[kept], score[kept], listed[kept])

    def lists(self, rows: int, k: int) -> tuple[NDArray[np.int32], Floats]:
        """Return each user's list and its scores, [rows, k], filled up with -1 and -inf."""
        items, scores = np.full((rows, k), -1, dtype=np.int32), np.full((rows, k), -np.inf)
        row = self.row[self.listed]
        place = (row, _rank_within(row))
        items[place], scores[place] = self.item[self.listed], self.score[self.listed]
        return items, scores


@torch.no_grad()
def search(
    model: Any,
    catalogue: Catalogue,
    prompts: Sequence[NDArray[np.int32]],
    k: int,
    *,
    softmax: str = "catalogue",
    excluded: Sequence[ArrayLike] | None = None,
    allowed: Sequence[ArrayLike | None] | None = None,
    caps: Sequence[Cap] = (),
    budget: int = BUDGET,
    budget_ms: float | None = None,
    beam: int | None = None,
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
            "vocabulary": over all tokens. Items that may not be returned stay in the normaliser.
        excluded: for each prompt the items not to return.
        allowed: for each prompt the only items to return, or None: all.
        caps: at most so many items of a group in a list, which is then the best one that keeps to the caps, taken from
            the best item down.
        budget: most beginnings expanded for a prompt.
        budget_ms: most milliseconds from the call until the last pass through the model begins; None: no bound.
        beam: expand level by level, where a level is one more choice, and keep so many beginnings a level; None: the
            most likely ones first, whatever their level.
        batching: how the model runs beginnings together, "forest" or "padded" (`open_tree`).
        adjust: other log probabilities of the children of trie nodes, none above 0, called with each node's prompt [n],
            the nodes [n], and for each child its node's place among them (ascending), its own node, and log p [m];
            None: the model's.

    Raises:
        InputError: the model's log probabilities are no numbers.
    """
    return _Search(
        model, catalogue, prompts, k, softmax, excluded, allowed, caps, budget, budget_ms, beam, batching, adjust
    ).run()


class _Search:
    """The state of one search; rows are the users still being searched."""

    def __init__(
        self,
        model: Any,
        catalogue: Catalogue,
        prompts: Sequence[NDArray[np.int32]],
        k: int,
        softmax: str,
        excluded: Sequence[ArrayLike] | None,
        allowed: Sequence[ArrayLike | None] | None,
        caps: Sequence[Cap],
        budget: int,
        budget_ms: float | None,
        beam: int | None,
        batching: str,
        adjust: Adjust | None,
    ) -> None:
        self.adjust = adjust
        self.deadline = np.inf if budget_ms is None else time.perf_counter() + budget_ms / 1000
        self.trie, self.head, self.k, self.caps = catalogue.trie, head_of(model), k, caps
        self.budget, self.beam = min(budget, _MOST), beam and min(beam, _MOST)
        self.forced_free = softmax == "catalogue"
        count = len(prompts)
        self.allowed = Allowed.of(self.trie, count, excluded, allowed)
        self.users = np.arange(count)
        self.in_tree = self.users  # whose keys and values the tree still holds, ascending
        ints = np.empty(0, dtype=np.int64)
        self.found = _Found(ints, ints, np.empty(0), np.empty(0, dtype=bool))
        self.bar = np.full(count, -np.inf)  # the k-th best item's score, which a beginning must beat
        self.bar_stays = len(caps) < 2  # it never falls
        self.expanded = np.zeros(count, dtype=np.int64)
        self.bound = np.full(count, -np.inf)  # of what was left aside
        self.tree = open_tree(model, prompts, batching)
        self.expansions = count  # the tree's prompts and chains so far
        zeros = np.zeros(count, dtype=np.int64)
        root = _Open(self.users, zeros, np.zeros(count), self.users)
        self.open = self.nothing = _Open(ints, ints, np.empty(0), ints)
        self._choose(self.tree.root, root, self.users)

    def run(self) -> SearchResult:
        """Expand until every user has a certificate or has spent the budget."""
        count = len(self.expanded)
        while len(self.users):
            self.bar = self.found.lists(count, self.k)[1][:, -1]
            above = self.open.score > self.bar[self.open.row]
            waiting = np.bincount(self.open.row[above], minlength=count) > 0
            if self.bar_stays:
                self.open = self.open[above]
            waiting &= (self.expanded < self.budget) & (time.perf_counter() < self.deadline)
            self._go_on_with(self.users[waiting[self.users]])
            if len(self.users):
                self._expand(self._best())
        items, scores = self.found.lists(count, self.k)
        exact = self.bound <= scores[:, -1]
        return SearchResult(items, scores, exact, self.expanded, np.where(exact, -np.inf, self.bound))

    def _go_on_with(self, users: Ints) -> None:
        """Leave finished users; their rows leave the tree once that halves it, since this copies what is kept."""
        if len(users) < len(self.users):
            stays = np.isin(self.open.row, users)
            self._leave(self.open[~stays])
            self.open = self.open[stays]
        if 2 * len(users) <= len(self.tree.lengths):
            self.tree.keep(np.searchsorted(self.in_tree, users))
            self.in_tree = users
        self.users = users

    def _best(self) -> _Open:
        """Take each user's most likely beginnings out of the open ones, ordered by user; a beam leaves the others."""
        above = np.flatnonzero(self.open.score > self.bar[self.open.row])
        score = self.open.score[above]
        # One key of row and score: sorting by two is ten times slower, and beginnings that rounding takes for equal may
        # go in any order.
        span = 1 - score.min(initial=0)
        order = above[np.argsort(self.open.row[above] * span - score)]
        left = self.budget - self.expanded
        if self.beam:
            left = np.minimum(self.beam, left)
        rows = self.open.row[order]
        order = order[_rank_within(rows) < left[rows]]
        if not self.beam:
            rows = self.open.row[order]
            tokens = _sum_within(rows, self._span(self.open.node[order])[1])
            order = order[(tokens <= _TOKENS) | (_rank_within(rows) == 0)]
        rest = np.ones(len(self.open), dtype=bool)
        rest[order] = False
        chosen, self.open = self.open[order], self.open[rest]
        if self.beam:
            self._leave(self.open)
            self.open = self.nothing
        np.add.at(self.expanded, chosen.row, 1)
        return chosen

    def _span(self, node: Ints) -> tuple[Ints, Ints]:
        """Return where beginnings come to their next choice, and how many tokens a pass needs until there."""
        end = self.trie.chain_end[node].astype(np.int64)
        return end, end - node + (self.trie.child_counts[end] > 0)  # a title's last token predicts nothing

    def _leave(self, beginnings: _Open) -> None:
        """Note what is not going to be expanded."""
        np.maximum.at(self.bound, beginnings.row, beginnings.score)

    def _expand(self, chosen: _Open) -> None:
        """Run the chosen beginnings' tokens up to their next choice, and open what can follow."""
        end, sizes = self._span(chosen.node)
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
        inner = self.trie.child_counts[end] > 0
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
        if self.bar_stays:
            new = new[new.score >= self.bar[new.row]]  # an equal item may come before the k-th best
        new = new[self.allowed.under(new.row, new.node)]
        stop = self.trie.chain_end[new.node].astype(np.int64) if self.forced_free else new.node
        self._find(new.row, new.node, stop + 1, new.score)
        self.open = _joined(self.open, new[self.trie.child_counts[stop] > 0])

    def _children(self, hidden: Tensor, rows: Ints, nodes: Ints) -> tuple[Ints, Ints, Floats]:
        """Return the children of each user's nodes with their log p, as `child_log_probs` does, adjusted."""
        index, child, log_p = child_log_probs(hidden, nodes, self.trie, self.head, self.forced_free)
        return index, child, log_p if self.adjust is None else self.adjust(rows, nodes, index, child, log_p)

    def _find(self, row: Ints, begin: Ints, stop: Ints, score: Floats) -> None:
        """Take in the allowed items that end at trie nodes begin:stop; all have their beginning's score."""
        offsets = self.trie.terminal_offsets
        counts = offsets[stop] - offsets[begin]
        owner = np.repeat(np.arange(len(row)), counts)
        place = ranges(offsets[begin], counts)
        allowed = self.allowed.at(row[owner], place)
        owner, item = owner[allowed], self.trie.terminal_items[place[allowed]].astype(np.int64)
        self.found = self.found.merged(row[owner], item, score[owner], self.k, self.caps)


def _sum_within(rows: Ints, values: Ints) -> Ints:
    """Return the sums of values along the equal elements of a sorted array, each with its own."""
    total = np.cumsum(values)
    first = np.arange(len(rows)) - _rank_within(rows)
    return total - (total - values)[first]


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
