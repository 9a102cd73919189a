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
        raw: the titles, the most frequent items first.
        plain: the same in lower case without punctuation; empty where a title has nothing else.
        items: int64 [I], their item indices.
    """

    raw: list[str]
    plain: list[str]
    items: NDArray[np.int64]

    @classmethod
    def of(cls, catalogue: Catalogue) -> Self:
        """Prepare a catalogue's titles."""
        items = np.argsort(-catalogue.counts, kind="stable")
        raw = [catalogue.titles[item] for item in items]
        return cls(raw, [utils.default_process(title) for title in raw], items)

    def find(self, text: str, limit: int) -> list[int]:
        """Return up to `limit` item indices, best first; no text finds the most frequent items.

        A whole title comes first, then what begins with the text, then where a word does, then what contains it, each
        most frequent first. Where nothing contains it, the text may have typos: then what looks most like it. Text of
        symbols alone is looked for as it is.
        """
        asked, wanted = text.strip().casefold(), utils.default_process(text)
        if not asked:
            return self.items[:limit].tolist()
        if wanted:
            places = [place for place, title in enumerate(self.plain) if wanted in title]
        else:
            places = [place for place, title in enumerate(self.raw) if asked in title.casefold()]
        places.sort(key=lambda place: self._rank(place, asked, wanted))
        if wanted and not places:
            alike = process.extract(wanted, self.plain, scorer=fuzz.WRatio, score_cutoff=_ALIKE, limit=limit)
            places = [place for _, _, place in alike]
        return self.items[places[:limit]].tolist()

    def _rank(self, place: int, asked: str, wanted: str) -> int:
        """Return how well a title that contains the text fits it; 0 is best. Of C, C# and C++ each is plainly "c"."""
        title, text = (self.plain[place], wanted) if wanted else (self.raw[place].strip().casefold(), asked)
        if title == text:
            return int(self.raw[place].strip().casefold() != asked)
        return 2 if title.startswith(text) else 3 if f" {text}" in title else 4
