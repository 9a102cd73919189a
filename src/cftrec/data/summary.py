"""What a Dataset holds, in numbers: sizes, sparsity, how long histories are, how popular items are, where it is cut."""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from cftrec.data.dataset import SPLITS, TRAIN, Dataset
from cftrec.data.sources.describe import day

QUANTILES = {
    "least": 0.0,
    "10 %": 0.1,
    "25 %": 0.25,
    "median": 0.5,
    "75 %": 0.75,
    "90 %": 0.9,
    "99 %": 0.99,
    "most": 1.0,
}
_TOP = 0.1  # of the items: the share of events they have is told


def summarise(dataset: Dataset) -> dict[str, Any]:
    """Return the numbers that `cftrec data` shows, of what JSON knows.

    Returns:
        name, counts (users, items, events), density (share of all pairs of user and item that have an event),
        share_of_top_items (of the events, those of the most popular tenth), quantiles (of events a user, events a test
        user's history, events an item; `QUANTILES`), period (first and last day or timestamp, or None), cuts (part ->
        where it begins, of splits in time), targets (part -> samples), split and leakage (the manifest's; a planted
        world has none).
    """
    users, items, events = len(dataset.users), dataset.items.height, len(dataset.events)
    popularity = np.bincount(dataset.events, minlength=items)
    tests = dataset.targets("test")
    measured = {
        "events of a user": np.diff(dataset.offsets),
        "events in the history of a test target": tests - dataset.offsets[dataset.user_of(tests)],
        "events of an item": popularity,
    }
    times, split = dataset.timestamps, dataset.manifest["split"]
    cuts = {part: split.get(f"{part}_from_timestamp") for part in SPLITS}
    top = np.sort(popularity)[::-1][: max(1, round(_TOP * items))]
    return {
        "name": dataset.manifest["name"],
        "counts": {"users": users, "items": items, "events": events},
        "density": _pairs(dataset) / (users * items),
        "share_of_top_items": int(top.sum()) / events,
        "quantiles": {name: _quantiles(values) for name, values in measured.items() if len(values)},
        "period": None if times is None else [day(times.min().item()), day(times.max().item())],
        "cuts": {part: day(time) for part, time in cuts.items() if time is not None},
        "targets": {part: _targets(dataset, code) for code, part in enumerate(SPLITS)},
        "split": split,
        "leakage": dataset.manifest.get("leakage", {}),
    }


def _pairs(dataset: Dataset) -> int:
    """Return how many different pairs of user and item have an event."""
    users = np.repeat(np.arange(len(dataset.users)), np.diff(dataset.offsets))
    return pl.Series(users * dataset.items.height + dataset.events).n_unique()


def _quantiles(values: npt.NDArray[np.int64]) -> dict[str, int]:
    found = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
    return dict(zip(QUANTILES, found.tolist(), strict=True))


def _targets(dataset: Dataset, code: int) -> int:
    """Return the number of samples of a part without listing them, as `Dataset.targets` counts them."""
    firsts = int((dataset.split[dataset.offsets[:-1]] == code).sum()) if code == TRAIN else 0
    return int((dataset.split == code).sum()) - firsts
