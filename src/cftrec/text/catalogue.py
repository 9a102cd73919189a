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
from safetensors.numpy import load_file, save_file

from cftrec.errors import InputError
from cftrec.text.trie import Trie, build_trie

_TABLE, _ARRAYS = "catalogue.arrow", "catalogue.safetensors"


@dataclass(frozen=True, eq=False)
class Catalogue:
    """I items in the order of the dataset's item table.

    Attributes:
        item_ids: the source's id of each item.
        titles: the title of each item; two items may share one.
        tokens: int32 [number of all tokens], each item's sequence with the closing tokens, one after the other.
        offsets: int64 [I + 1]; item i's sequence is `tokens[offsets[i]:offsets[i + 1]]`.
        trie: the sequences as a prefix tree.
        counts: int64 [I], training events of each item.
    """

    item_ids: list[str]
    titles: list[str]
    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    trie: Trie
    counts: NDArray[np.int64]

    @classmethod
    def build(
        cls,
        item_ids: Sequence[str],
        titles: Sequence[str],
        sequences: Sequence[Sequence[int]],
        counts: NDArray[np.int64] | None = None,
    ) -> Self:
        """Build the catalogue from one token sequence an item, closing tokens included; no counts are counts of 0.

        Raises:
            InputError: the three differ in length, there is no item, or a sequence is empty.
        """
        if not len(item_ids) == len(titles) == len(sequences):
            raise InputError(
                f"a catalogue needs as many item ids as titles and sequences, "
                f"but got {len(item_ids)}, {len(titles)} and {len(sequences)}"
            )
        offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
        arrays = [np.asarray(sequence, dtype=np.int32) for sequence in sequences]
        tokens = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int32)
        counts = np.zeros(len(item_ids), dtype=np.int64) if counts is None else counts
        return cls(list(item_ids), list(titles), tokens, offsets, build_trie(tokens, offsets), counts)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.item_ids)

    def save(self, folder: Path) -> None:
        """Write `catalogue.arrow` and `catalogue.safetensors` into an existing folder."""
        table = pl.DataFrame({"item_id": self.item_ids, "title": self.titles, "count": self.counts})
        table.write_ipc(folder / _TABLE)
        save_file({"tokens": self.tokens, "offsets": self.offsets}, folder / _ARRAYS)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the trie is built anew, which is faster than reading it.

        Raises:
            InputError: a file is missing or broken.
        """
        try:
            table = pl.read_ipc(folder / _TABLE)
            arrays = load_file(folder / _ARRAYS)
        except (OSError, pl.exceptions.PolarsError, SafetensorError) as error:
            raise InputError(f"{folder}: holds no readable catalogue ({error}); train the run again") from error
        tokens, offsets = arrays["tokens"], arrays["offsets"]
        trie, counts = build_trie(tokens, offsets), table["count"].to_numpy()
        return cls(table["item_id"].to_list(), table["title"].to_list(), tokens, offsets, trie, counts)

    def sequence(self, item: int) -> NDArray[np.int32]:
        """Return an item's tokens with the closing ones, int32 [T] (a view)."""
        return self.tokens[self.offsets[item] : self.offsets[item + 1]]

    @property
    def longest(self) -> int:
        """Number of tokens of the longest sequence."""
        return int(np.diff(self.offsets).max())

    def index_of(self, titles: Iterable[str]) -> NDArray[np.int64]:
        """Return the item index of each title, int64 [number of titles]; of several items with one title the first.

        Raises:
            InputError: a title is not in the catalogue; the message offers the three nearest ones.
        """
        titles = list(titles)
        for title in titles:
            if title not in self._index:
                raise InputError(
                    f"unknown title {title!r}; the nearest are {', '.join(map(repr, self.nearest(title)))}"
                )
        return np.array([self._index[title] for title in titles], dtype=np.int64)

    def nearest(self, title: str, count: int = 3) -> list[str]:
        """Return the catalogue's titles that look most like `title`, best first; case and punctuation do not count."""
        found = process.extract(
            title, list(self._index), scorer=fuzz.WRatio, processor=utils.default_process, limit=count
        )
        return [match for match, _, _ in found]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {title: item for item, title in reversed(list(enumerate(self.titles)))}
