"""The catalogue: items, their titles, the token sequences that name them, and the trie of these sequences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rapidfuzz import fuzz, process, utils
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cftrec.errors import InputError
from cftrec.ragged import Ragged
from cftrec.text.trie import Trie, build_trie

_TABLE, _COLUMNS, _TRIE = "catalogue.arrow", "columns.arrow", "trie"
_ARRAYS = "catalogue.safetensors"  # of RUNs that hold no trie: the tokens it is built of
_SHOWN = 60  # characters of a title in an error


@dataclass(frozen=True, eq=False)
class Catalogue:
    """I items in the order of the dataset's item table, then those added later.

    Attributes:
        item_ids: the source's id of each item.
        titles: the title of each item; two items may share one.
        trie: each item's tokens with the closing ones, as a prefix tree.
        counts: int64 [I], training events of each item.
        trained: bool [I], whether the item was in the catalogue when the model was trained.
        columns: the item table's other columns, I rows of str.
    """

    item_ids: list[str]
    titles: list[str]
    trie: Trie
    counts: NDArray[np.int64]
    trained: NDArray[np.bool_]
    columns: pl.DataFrame

    @classmethod
    def build(
        cls,
        item_ids: Sequence[str],
        titles: Sequence[str],
        sequences: Sequence[Sequence[int]],
        counts: NDArray[np.int64] | None = None,
        columns: pl.DataFrame | None = None,
    ) -> Self:
        """Build the catalogue from one token sequence an item, closing tokens included; no counts are counts of 0.

        Raises:
            InputError: the three differ in length, there is no item, or a sequence is empty.
        """
        count = len(item_ids)
        if not count == len(titles) == len(sequences):
            raise InputError(
                f"a catalogue needs as many item ids as titles and sequences, "
                f"but got {count}, {len(titles)} and {len(sequences)}"
            )
        return cls(
            item_ids=list(item_ids),
            titles=list(titles),
            trie=_trie_of(Ragged.of(sequences)),
            counts=np.zeros(count, dtype=np.int64) if counts is None else counts,
            trained=np.ones(count, dtype=bool),
            columns=pl.DataFrame(height=count) if columns is None else columns,
        )

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.item_ids)

    def extended(self, items: pl.DataFrame, sequences: Sequence[Sequence[int]]) -> Self:
        """Return a catalogue with further items behind the present ones, which the model was not trained on.

        Args:
            items: columns item_id, title and any others, all str; where one table lacks a column its items have null.
            sequences: the tokens of each new item with the closing ones.

        Raises:
            InputError: an id or a title is there already, or twice among the new ones, or a sequence is empty.
        """
        for name, present in (("item_id", self.item_ids), ("title", self.titles)):
            given = items[name]
            taken = given.filter(
                given.is_in(pl.Series(present, dtype=pl.String).implode()) | ~given.is_first_distinct()
            )
            if len(taken):
                shown = ", ".join(map(repr, taken.head(3)))
                more = f" and {len(taken) - 3:,} more" if len(taken) > 3 else ""
                raise InputError(f"{name} {shown}{more}: in the catalogue already, or given twice; leave the rows out")
        sizes = np.diff(self.offsets)
        new = Ragged.of(sequences)
        every = Ragged(np.concatenate([self.tokens, new.values]), np.concatenate([sizes, new.lengths]))
        untrained = np.zeros(items.height, dtype=bool)
        return type(self)(
            item_ids=self.item_ids + items["item_id"].to_list(),
            titles=self.titles + items["title"].to_list(),
            trie=_trie_of(every),
            counts=np.concatenate([self.counts, untrained]).astype(np.int64),
            trained=np.concatenate([self.trained, untrained]),
            columns=pl.concat([self.columns, items.drop("item_id", "title")], how="diagonal"),
        )

    def save(self, folder: Path) -> None:
        """Write `catalogue.arrow`, `columns.arrow` and the trie's arrays into an existing folder."""
        facts = {"item_id": self.item_ids, "title": self.titles, "count": self.counts, "trained": self.trained}
        schema = {"item_id": pl.String, "title": pl.String}
        pl.DataFrame(facts, schema_overrides=schema).write_ipc(folder / _TABLE)
        if self.columns.width:
            self.columns.write_ipc(folder / _COLUMNS)
        (folder / _TRIE).mkdir()
        self.trie.save(folder / _TRIE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the trie's arrays are mapped into memory.

        Raises:
            InputError: a file is missing or broken.
        """
        try:
            table = pl.read_ipc(folder / _TABLE)
            count = table.height
            listed = (folder / _COLUMNS).is_file()
            columns = pl.read_ipc(folder / _COLUMNS) if listed else pl.DataFrame(height=count)
            if (folder / _TRIE).is_dir():
                trie, trained = Trie.load(folder / _TRIE), table["trained"].to_numpy()
            else:
                arrays = load_file(folder / _ARRAYS)
                trie, trained = build_trie(arrays["tokens"], arrays["offsets"]), np.ones(count, dtype=bool)
        except (OSError, ValueError, KeyError, pl.exceptions.PolarsError, SafetensorError) as error:
            raise InputError(f"{folder}: holds no readable catalogue ({error}); train the run again") from error
        ids, titles, counts = table["item_id"].to_list(), table["title"].to_list(), table["count"].to_numpy()
        return cls(ids, titles, trie, counts, trained, columns)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each item's tokens begin in `tokens`, int64 [I + 1]."""
        return self.trie.offsets

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        """Each item's tokens with the closing ones, one item after the other, int32 [number of all tokens]."""
        return self.trie.token[self.trie.paths]

    def sequence(self, item: int) -> NDArray[np.int32]:
        """Return an item's tokens with the closing ones, int32 [T]."""
        return self.trie.token[self.trie.path(item)]

    @cached_property
    def longest(self) -> int:
        """Number of tokens of the longest sequence."""
        return int(np.diff(self.offsets).max())

    @property
    def longest_name(self) -> str:
        """How an error calls the item of the longest sequence."""
        item = int(np.diff(self.offsets).argmax())
        return f"item {self.item_ids[item]!r} ({_short(self.titles[item])!r})"

    @cached_property
    def untrained(self) -> NDArray[np.bool_]:
        """Whether the way to each item passes a choice that did not exist in training, bool [I].

        That is a token that began no title then, or one of several where then there was no other.
        """
        trie = self.trie
        if self.trained.all():
            return np.zeros(len(self), dtype=bool)
        before = np.concatenate(([0], np.cumsum(self.trained[trie.terminal_items])))
        known = before[trie.terminal_offsets[trie.end]] > before[trie.terminal_offsets[:-1]]
        options = np.bincount(trie.parent[1:][known[1:]], minlength=len(trie))
        new = np.zeros(len(trie), dtype=bool)
        new[1:] = trie.choices[trie.parent[1:]] & ~(known[1:] & (options[trie.parent[1:]] > 1))
        return np.logical_or.reduceat(new[trie.paths], self.offsets[:-1])

    def index_of(self, titles: Iterable[str]) -> NDArray[np.int64]:
        """Return the item index of each title, int64 [number of titles]; of several items with one title the first.

        Raises:
            InputError: a title is not in the catalogue; the message offers the three nearest ones.
        """
        titles = list(titles)
        for title in titles:
            if title not in self._index:
                raise InputError(f"unknown title {title!r}; {self._offer(title)}")
        return np.array([self._index[title] for title in titles], dtype=np.int64)

    def namesakes(self, items: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return all items whose title is that of one of some items, these among them, int64, ascending."""
        sharing = [self._sharing[item] for item in items.tolist() if item in self._sharing]
        return np.unique(np.concatenate([items, *sharing])).astype(np.int64)

    def named(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Return the items that are meant by ids or titles, int64, ascending; a title means all items that have it.

        Raises:
            InputError: a name is neither; the message offers the three nearest titles.
        """
        names = pl.Series(list(names), dtype=pl.String).unique(maintain_order=True)
        ids, titles = pl.Series(self.item_ids, dtype=pl.String), pl.Series(self.titles, dtype=pl.String)
        by_title = names.filter(~names.is_in(ids.implode()))
        unknown = by_title.filter(~by_title.is_in(titles.implode()))
        if len(unknown):
            raise InputError(f"{unknown[0]!r} is neither an item id nor a title; {self._offer(unknown[0])}")
        return (ids.is_in(names.implode()) | titles.is_in(by_title.implode())).arg_true().cast(pl.Int64).to_numpy()

    def groups(self, column: str) -> NDArray[np.int64]:
        """Return each item's value of a column of the item table as a number, int64 [I]; -1 where it has none.

        Raises:
            InputError: the RUN holds no such column.
        """
        if column not in self.columns.columns:
            known = (
                ", ".join(self.columns.columns) or "none: the item table had none, or the RUN is older; train it again"
            )
            raise InputError(f"the catalogue has no column {column!r}; there are {known}")
        values = self.columns[column].replace("", None)
        return values.rank("dense").cast(pl.Int64).fill_null(-1).to_numpy()

    def nearest(self, title: str, count: int = 3) -> list[str]:
        """Return the catalogue's titles that look most like `title`, best first; case and punctuation do not count."""
        found = process.extract(
            title, list(self._index), scorer=fuzz.WRatio, processor=utils.default_process, limit=count
        )
        return [match for match, _, _ in found]

    def _offer(self, title: str) -> str:
        return f"the nearest are {', '.join(map(repr, self.nearest(title)))}"

    @cached_property
    def _index(self) -> dict[str, int]:
        return {title: item for item, title in reversed(list(enumerate(self.titles)))}

    @cached_property
    def _sharing(self) -> dict[int, NDArray[np.int64]]:
        """Of each item that shares its title, all that have it."""
        titles = pl.Series("title", self.titles, dtype=pl.String)
        several = pl.DataFrame({"title": titles}).with_row_index("item").filter(titles.is_duplicated())
        groups = several.group_by("title").agg(pl.col("item").cast(pl.Int64))["item"]
        return {item: group.to_numpy() for group in groups for item in group}


def _short(title: str) -> str:
    return title if len(title) <= _SHOWN else title[:_SHOWN] + "..."


def _trie_of(sequences: Ragged) -> Trie:
    return build_trie(sequences.values, np.concatenate(([0], np.cumsum(sequences.lengths))))
