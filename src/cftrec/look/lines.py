"""A Dataset's summary and samples as lines of text."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cftrec.data.summary import QUANTILES
from cftrec.look.samples import Samples


def lines(summary: Mapping[str, Any], samples: Samples) -> Iterator[str]:
    """Yield what `cftrec data` prints.

    Args:
        summary: of `cftrec.data.summary.summarise`.
        samples: of `draw_samples`.
    """
    counts = ", ".join(f"{count:,} {what}" for what, count in summary["counts"].items())
    yield f"{summary['name']}: {counts}"
    yield f"sparsity     {1 - summary['density']:.4%} of all pairs of user and item have no event"
    yield f"popularity   the most popular tenth of the items has {summary['share_of_top_items']:.1%} of the events"
    yield f"period       {' to '.join(summary['period']) if summary['period'] else 'no timestamps'}"
    yield f"split        {', '.join(split_words(summary))}"
    yield ""
    yield from _table({"": list(QUANTILES)} | {name: _counts(row) for name, row in summary["quantiles"].items()})
    yield ""
    yield "leakage"
    yield from (f"  {name}: {value}" for name, value in leakage_words(summary["leakage"]))
    yield from _samples(samples)


def split_words(summary: Mapping[str, Any]) -> list[str]:
    """Return the split in words: its rule, the samples of each part, and where it begins in time."""
    parts = [
        f"{count:,} {part} targets" + (f" (from {summary['cuts'][part]})" if part in summary["cuts"] else "")
        for part, count in summary["targets"].items()
    ]
    return [summary["split"]["rule"], *parts]


def leakage_words(leakage: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the manifest's leakage section, a name and a value a line."""
    return [(name.replace("_", " "), _plain(value)) for name, value in leakage.items()]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{count:,} {part}" for part, count in value.items())
    return "not known" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _counts(row: Mapping[str, int]) -> list[str]:
    return [f"{count:,}" for count in row.values()]


def _table(rows: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield rows of cells under each other, the first cell to the left."""
    widths = [max(len(cells[place]) for cells in rows.values()) for place in range(len(QUANTILES))]
    longest = max(map(len, rows))
    for name, cells in rows.items():
        yield "  ".join([name.ljust(longest), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])


def _samples(samples: Samples) -> Iterator[str]:
    for number, sample in enumerate(samples.samples, start=1):
        yield f"\n--- {samples.split} sample {number}: user {sample.user}, {shown_words(sample.shown, sample.history)}"
        yield sample.prompt
        yield f"--- target {json.dumps(sample.target, ensure_ascii=False)}"
    if samples.samples:
        yield f"\n--- without a history\n{samples.without_history}"
    yield from (f"--- {note}" for note in samples.notes)


def shown_words(shown: int, history: int) -> str:
    """Say how much of a history a prompt shows."""
    return f"{shown} of {history} items before" if shown < history else f"{history} items before"
