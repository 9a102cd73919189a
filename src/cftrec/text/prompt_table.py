"""The prompts of many samples at once: `Prompt.factual` and `Prompt.counterfactual` without a loop over samples."""

from dataclasses import dataclass

import numpy as np

from cftrec.ragged import Ints, Ragged, ranges
from cftrec.text.catalogue import Catalogue
from cftrec.text.prompt import Prompt

_PREFIX, _SUFFIX, _WITHOUT, _LISTED = range(4)


@dataclass(frozen=True, eq=False)
class PromptTable:
    """Everything that the prompts of a catalogue are made of, in one array: a batch is one look-up in it.

    Every prompt leaves room for the longest title, so that samples which show one history go on sharing it.

    Attributes:
        prompt: x_h and x_0.
        parts: int64, prefix, suffix and x_0, then each item as a history lists it (the separator in place of the
            closing), then each item as a target (its whole sequence).
        room: most tokens of a history, a separator after each item counted; None: no bound.
    """

    prompt: Prompt
    parts: Ragged
    room: int | None

    @classmethod
    def of(cls, prompt: Prompt, catalogue: Catalogue) -> "PromptTable":
        """Make the table.

        Raises:
            InputError: not even the prompt without any item fits `max_tokens`.
        """
        room = None if prompt.max_tokens is None else prompt.room(catalogue.longest, catalogue.longest_name)
        frame = Ragged.of([prompt.prefix, prompt.suffix, prompt.without_history])
        targets = Ragged(catalogue.tokens, np.diff(catalogue.offsets))
        separator = len(prompt.separator)
        # A listed item is its sequence without the closing, then the separator, which is put before all sequences.
        source = np.concatenate([prompt.separator, catalogue.tokens]).astype(np.int64)
        starts = np.column_stack([separator + targets.starts, np.zeros_like(targets.starts)])
        lengths = np.column_stack([targets.lengths - len(prompt.closing), np.full_like(targets.lengths, separator)])
        listed = Ragged(source[ranges(starts.ravel(), lengths.ravel())], lengths.sum(1))
        together = (frame, listed, targets)
        parts = Ragged(*(np.concatenate([getattr(part, name) for part in together]) for name in ("values", "lengths")))
        return cls(prompt, parts, room)

    def factual(self, histories: Ragged, targets: Ints, inputs: Ints) -> Ragged:
        """Return x_h of each history with the first tokens of its target.

        Args:
            histories: item indices of N histories, oldest first.
            targets: int64 [N], item indices.
            inputs: int64 [N], how many tokens of each target follow the prompt.

        Returns:
            N token sequences, int64.
        """
        shown = self._fitting(histories)
        sizes = shown.lengths + 3
        first = np.cumsum(sizes) - sizes
        last_item, last = first + shown.lengths, first + sizes - 1
        numbers = np.empty(int(sizes.sum()), dtype=np.int64)
        numbers[first], numbers[last - 1] = _PREFIX, _SUFFIX
        numbers[last] = self._target(targets)
        numbers[ranges(first + 1, shown.lengths)] = _LISTED + shown.values
        lengths = self.parts.lengths[numbers]
        lengths[last] = inputs
        if self.prompt.suffix:  # the newest item has no separator
            lengths[last_item[shown.lengths > 0]] -= len(self.prompt.separator)
        return self._join(numbers, lengths, first)

    def counterfactual(self, targets: Ints, inputs: Ints) -> Ragged:
        """Return x_0 with the first tokens of each target, with the arguments and the result of `factual`."""
        numbers = np.column_stack([np.full_like(targets, _WITHOUT), self._target(targets)]).ravel()
        lengths = self.parts.lengths[numbers]
        lengths[1::2] = inputs
        return self._join(numbers, lengths, np.arange(0, len(numbers), 2))

    def _target(self, items: Ints) -> Ints:
        """Return which parts items are as targets: they stand behind the same number of listed items."""
        return items + (len(self.parts.lengths) + _LISTED) // 2

    def _join(self, numbers: Ints, lengths: Ints, first: Ints) -> Ragged:
        """Return sequences made of the first `lengths` tokens of parts; a sequence's parts begin at `first`."""
        values = self.parts.values[ranges(self.parts.starts[numbers], lengths)]
        return Ragged(values, np.add.reduceat(lengths, first) if len(first) else lengths)

    def _fitting(self, histories: Ragged) -> Ragged:
        """Leave the oldest items of each history out, whole, until it fits."""
        if self.room is None:
            return histories
        sizes = self.parts.lengths[_LISTED + histories.values]
        before = np.concatenate(([0], np.cumsum(sizes)))
        ends = np.cumsum(histories.lengths)
        # The tokens from an item to its history's end only shrink along the history, so what fits is its end.
        fits = np.repeat(before[ends], histories.lengths) - before[:-1] <= self.room
        kept = np.concatenate(([0], np.cumsum(fits)))
        return Ragged(histories.values[fits], kept[ends] - kept[ends - histories.lengths])
