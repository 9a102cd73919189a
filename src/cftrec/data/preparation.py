"""From a log to a Dataset in named steps, each of which accounts for what it drops: in = kept + dropped.

read -> untitled -> same_title -> order -> repeats -> window -> core -> sample -> split
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cftrec.data.again import names_beside
from cftrec.data.dataset import Dataset
from cftrec.data.leakage import leakage
from cftrec.data.options import PrepareOptions, named_options
from cftrec.data.sources import AUTO, read_source
from cftrec.data.split import make_split
from cftrec.data.steps import STEPS, Dropped
from cftrec.data.tables import Tables, Times, encode

_Step = dict[str, Any]


def prepare(source: str | Path, format: str = AUTO, options: PrepareOptions | None = None) -> Dataset:
    """Read a log and make it a Dataset; equal sources and options give equal datasets.

    Items keep the order of the source's item table, users that of their first event in the log.

    Args:
        source: a folder or file, or `installed` (movielens).
        format: one of `cftrec.data.sources.SOURCES`, or `auto`, which looks at the source.
        options: default `PrepareOptions()`.

    Raises:
        InputError: the source cannot be read, too many items are untitled, or nothing is left to train or to test on.
    """
    options = options or PrepareOptions()
    tables, facts = _read(source, format, options)
    steps: list[_Step] = [_reading(facts, tables.counts())]
    for name, step in STEPS.items():
        before = tables.counts()
        tables, dropped, notes = step(tables, options)
        steps.append(_account(name, before, tables.counts(), dropped) | notes)
    offsets = tables.offsets()
    split, rule = make_split(tables, offsets, options)
    manifest = {
        "name": facts["name"],
        "source": facts,
        "options": named_options(options),
        "steps": steps,
        "counts": tables.counts(),
        "split": rule,
        "leakage": leakage(tables, split, offsets, options),
    }
    return Dataset(
        items=tables.items,
        users=tables.users,
        offsets=offsets,
        events=tables.item,
        split=split,
        timestamps=_whole(tables.timestamps),
        manifest=manifest,
    )


def _whole(times: Times | None) -> npt.NDArray[np.int64] | None:
    """Return timestamps without fractions; whole ones as they are, for a float holds them to 2^53 only."""
    if times is None:
        return None
    return (times if times.dtype == np.int64 else np.floor(times)).astype(np.int64, copy=False)


def _read(source: str | Path, format: str, options: PrepareOptions) -> tuple[Tables, dict[str, Any]]:
    """Return the log as integers, the texts of its events let go, and its facts."""
    log = read_source(source, format, options)
    beside = names_beside(source, [file["name"] for file in log.facts["files"]])
    return encode(log, options), log.facts | {"names_beside": beside}


def _reading(facts: dict[str, Any], counts: dict[str, int]) -> _Step:
    """Return the first step's entry of the manifest: what of the source's rows became the log with these counts.

    Rows that are no events (sequences, samples) have an account of their own, `rows`; items that only the log names
    come without a row.
    """
    rows, dropped = facts["log_rows"], dict(facts["item_rows"]["dropped"])
    before = counts | {"items": counts["items"] + sum(dropped.values())}
    step = _account("read", before, counts, {"items": dropped})
    return step | ({"events": rows} if facts["rows_are"] == "events" else {"rows": rows})


def _account(name: str, before: dict[str, int], after: dict[str, int], dropped: Dropped) -> _Step:
    """Return a step's entry of the manifest."""
    counts = {
        what: {"in": before[what], "kept": after[what], "dropped": dropped.get(what, {})}
        for what in ("users", "items", "events")
    }
    return {"step": name} | counts
