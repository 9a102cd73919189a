"""Finding items as a title is typed: what begins with the text, what contains it, and what it may be a typo of."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import fuzz, process, utils

from cftrec.text import Catalogue

_ALIKE = 70.0  # of 100; below, what a title shares with the text is chance


@dataclass(frozen=True, eq=False)
class TitleIndex:
    """A catalogue's titles, made ready to be searched.

    Attributes:
        plain: the titles in lower case without punctuation, the most frequent items first.
        items: int64 [I], their item indices.
    """

    plain: list[str]
    items: NDArray[np.int64]

    @classmethod
    def of(cls, catalogue: Catalogue) -> Self:
        """Prepare a catalogue's titles."""
        items = np.argsort(-catalogue.counts, kind="stable")
        return cls([utils.default_process(catalogue.titles[item]) for item in items], items)

    def find(self, text: str, limit: int) -> list[int]:
        """Return up to `limit` item indices, best first; no text finds the most frequent items.

        What begins with the text comes first, then where a word does, then what contains it, each most frequent first.
        Where nothing contains it, the text may have typos: then what looks most like it.
        """
        wanted = utils.default_process(text)
        if not wanted:
            return self.items[:limit].tolist() if not text.strip() else []
        places = [place for place, title in enumerate(self.plain) if wanted in title]
        places.sort(key=lambda place: (not self.plain[place].startswith(wanted), f" {wanted}" not in self.plain[place]))
        if not places:
            alike = process.extract(wanted, self.plain, scorer=fuzz.WRatio, score_cutoff=_ALIKE, limit=limit)
            places = [place for _, _, place in alike]
        return self.items[places[:limit]].tolist()
