"""The catalogue's trie: every distinct beginning of a token sequence once, in preorder and in compressed rows."""

from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cftrec.errors import InputError

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trie:
    """A prefix tree of I token sequences with n nodes; node 0 is the root, the empty prefix.

    Nodes are in preorder with children in ascending token order, so the nodes under node i (itself included) are
    exactly `i:end[i]`. Sequences may begin one another (terminal inner nodes) and may be equal (several items a node).

    Attributes:
        token: int32 [n], the token on the edge into the node; -1 at the root.
        parent: int32 [n]; -1 at the root.
        depth: int32 [n], tokens on the way from the root.
        end: int32 [n], one past the last node of the node's subtree.
        child_offsets: int64 [n + 1]; node i's children are `children[child_offsets[i]:child_offsets[i + 1]]`.
        children: int32 [n - 1], node numbers; within a node in ascending token order.
        terminal_offsets: int64 [n + 1]; the items that end at node i are
            `terminal_items[terminal_offsets[i]:terminal_offsets[i + 1]]`, in ascending order.
        terminal_items: int32 [I].
        item_node: int32 [I], the node where the item's whole sequence ends.
        paths: int32 [number of all tokens], the node reached after each token, sequence after sequence.
        offsets: int64 [I + 1]; item i's path is `paths[offsets[i]:offsets[i + 1]]`.
    """

    token: Int32
    parent: Int32
    depth: Int32
    end: Int32
    child_offsets: Int64
    children: Int32
    terminal_offsets: Int64
    terminal_items: Int32
    item_node: Int32
    paths: Int32
    offsets: Int64

    def __len__(self) -> int:
        """Return the number of nodes, the root included."""
        return len(self.token)

    def path(self, item: int) -> Int32:
        """Return the nodes along an item's sequence, int32 [T]: the node reached after each token (a view)."""
        return self.paths[self.offsets[item] : self.offsets[item + 1]]

    def save(self, folder: Path) -> None:
        """Write each array into an existing folder, as NAME.npy."""
        for array in fields(self):
            np.save(folder / f"{array.name}.npy", getattr(self, array.name))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Map what `save` wrote into memory: nothing is read before it is used, and processes share it.

        Raises:
            OSError: a file is missing.
            ValueError: a file is no array.
        """
        paths = (folder / f"{array.name}.npy" for array in fields(cls))
        # A plain view: numpy's own class for mapped arrays makes every indexing slower.
        return cls(*(np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray) for path in paths))

    @cached_property
    def child_counts(self) -> Int32:
        """Number of children of each node, int32 [n]."""
        return np.diff(self.child_offsets).astype(np.int32)

    @cached_property
    def choices(self) -> NDArray[np.bool_]:
        """Whether a node has more than one child, bool [n]: elsewhere the next token is forced (or there is none)."""
        return self.child_counts > 1

    @cached_property
    def chain_end(self) -> Int32:
        """Where each node's chain of forced tokens ends, int32 [n]: the next node without exactly one child.

        An only child follows its parent in preorder, so a chain's nodes are consecutive.
        """
        numbers = np.arange(len(self), dtype=np.int32)
        stops = np.where(self.child_counts == 1, np.int32(len(self)), numbers)
        return np.minimum.accumulate(stops[::-1])[::-1]

    @cached_property
    def places(self) -> Int32:
        """Each item's place in `terminal_items`, int32 [I].

        The items under node i are those in places `terminal_offsets[i]` to `terminal_offsets[end[i]]`.
        """
        places = np.empty_like(self.terminal_items)
        places[self.terminal_items] = np.arange(len(places), dtype=np.int32)
        return places


def build_trie(tokens: ArrayLike, offsets: ArrayLike) -> Trie:
    """Build the trie of token sequences, one depth at a time; time and memory are linear in tokens, up to sorting.

    Args:
        tokens: integers >= 0, all sequences one after the other.
        offsets: integers [I + 1]; item i's sequence is `tokens[offsets[i]:offsets[i + 1]]`.

    Raises:
        InputError: there is no sequence, or one is empty.
    """
    tokens, offsets = np.asarray(tokens, dtype=np.int64), np.asarray(offsets, dtype=np.int64)
    lengths = np.diff(offsets)
    if not len(lengths):
        raise InputError("the catalogue is empty: it needs at least one item")
    if not lengths.all():
        raise InputError(f"item {int(np.flatnonzero(lengths == 0)[0])} of the catalogue has no tokens")

    paths, parent, token, levels = _by_depth(tokens, offsets)
    depth = np.repeat(np.arange(len(levels) - 1), np.diff(levels))
    size, number = _preorder(parent, levels)
    order = np.argsort(number)  # preorder position -> number by depth
    parent = number[parent[order]]
    parent[0] = -1
    paths = number[paths]
    item_node = paths[offsets[1:] - 1]
    count = len(order)
    return Trie(
        token=token[order].astype(np.int32),
        parent=parent.astype(np.int32),
        depth=depth[order].astype(np.int32),
        end=(np.arange(count) + size[order]).astype(np.int32),
        child_offsets=_group_offsets(parent[1:], count),
        # In preorder siblings come in token order, so a stable sort by parent leaves them in it.
        children=(np.argsort(parent[1:], kind="stable") + 1).astype(np.int32),
        terminal_offsets=_group_offsets(item_node, count),
        terminal_items=np.argsort(item_node, kind="stable").astype(np.int32),
        item_node=item_node.astype(np.int32),
        paths=paths.astype(np.int32),
        offsets=offsets,
    )


def _by_depth(tokens: Int64, offsets: Int64) -> tuple[Int64, Int64, Int64, list[int]]:
    """Number the nodes depth by depth, within a depth in the order of their prefixes.

    Returns the node after each token [tokens], each node's parent (root: 0) and token (root: -1) [n], and where each
    depth begins, closed by n.
    """
    lengths = np.diff(offsets)
    base = int(tokens.max()) + 1
    paths = np.empty_like(tokens)
    at = np.zeros(len(lengths), dtype=np.int64)  # the node each item has come to
    open_items = np.arange(len(lengths))
    parents, edges, levels = [np.zeros(1, dtype=np.int64)], [np.full(1, -1, dtype=np.int64)], [0, 1]
    for depth in range(int(lengths.max())):
        open_items = open_items[lengths[open_items] > depth]
        place = offsets[open_items] + depth
        keys, child = np.unique(at[open_items] * base + tokens[place], return_inverse=True)
        at[open_items] = paths[place] = levels[-1] + child
        parents.append(keys // base)
        edges.append(keys % base)
        levels.append(levels[-1] + len(keys))
    return paths, np.concatenate(parents), np.concatenate(edges), levels


def _preorder(parent: Int64, levels: list[int]) -> tuple[Int64, Int64]:
    """Return each node's subtree size and its number in preorder, both [n], for nodes numbered depth by depth."""
    slices = [slice(start, stop) for start, stop in pairwise(levels[1:])]
    size = np.ones(len(parent), dtype=np.int64)
    for level in reversed(slices):
        np.add.at(size, parent[level], size[level])
    # A node comes after its parent and the subtrees of its earlier siblings, which lie before it in its depth.
    before = np.cumsum(size) - size
    step = 1 + before - before[1 + np.searchsorted(parent[1:], parent)]  # less the first sibling's
    number = np.zeros_like(size)
    for level in slices:
        number[level] = number[parent[level]] + step[level]
    return size, number


def _group_offsets(groups: Int64, count: int) -> Int64:
    """Return int64 [count + 1]: where each group begins once its members are sorted by group."""
    return np.concatenate(([0], np.cumsum(np.bincount(groups, minlength=count)))).astype(np.int64)
