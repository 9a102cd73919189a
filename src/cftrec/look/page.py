"""A Dataset as one self-contained HTML page with plots."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from cftrec.artefacts import package_versions
from cftrec.data import SPLITS, Dataset
from cftrec.data.dataset import CONTEXT
from cftrec.data.summary import QUANTILES
from cftrec.evaluation import charts
from cftrec.evaluation.report import page_environment
from cftrec.look.lines import leakage_words, shown_words, split_words
from cftrec.look.samples import Samples

_BINS = 40  # of time
_POINTS = 200  # of the curve of popularity


def render_page(dataset: Dataset, summary: Mapping[str, Any], samples: Samples) -> str:
    """Return the page's HTML; titles, ids and names are untrusted text and escaped, nothing is fetched.

    Args:
        dataset: the dataset, its manifest that of `prepare`.
        summary: of `cftrec.data.summary.summarise`.
        samples: of `draw_samples`.
    """
    return (
        page_environment(Path(__file__).parent)
        .get_template("page.html.j2")
        .render(
            summary=summary,
            quantiles=list(QUANTILES),
            split=split_words(summary),
            leakage=leakage_words(summary["leakage"]),
            steps=[_step(step) for step in dataset.manifest["steps"]],
            plots=list(_plots(dataset, summary).items()),
            context=bool((dataset.split == CONTEXT).any()),
            samples=samples,
            shown=shown_words,
            options=dataset.manifest["options"],
            versions=package_versions(),
        )
    )


def _plots(dataset: Dataset, summary: Mapping[str, Any]) -> dict[str, Markup]:
    plots = {
        "How many events users have": charts.counts(*_doubling(np.diff(dataset.offsets)), "events of a user", "users"),
        "How popular items are": charts.ranks(*_by_rank(dataset), "item, from the most popular", "events"),
    }
    if dataset.timestamps is not None and dataset.timestamps.min() < dataset.timestamps.max():
        edges = np.linspace(dataset.timestamps.min(), dataset.timestamps.max(), _BINS + 1)
        names = (*SPLITS, "in histories only")
        parts = {
            part: np.histogram(dataset.timestamps[dataset.split == code], edges)[0] for code, part in enumerate(names)
        }
        plots["When events happened"] = charts.timeline(parts, summary["period"])
    return plots


def _doubling(values: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """Return bins that double, as "4 to 7", and how many values each has."""
    power = np.frexp(values)[1] - 1  # the power of two below
    first = int(power.min())
    names = [f"{2**n:,}" for n in range(first, int(power.max()) + 1)]
    return names, np.bincount(power - first)


def _by_rank(dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return some ranks, evenly apart on a logarithmic axis, and the events of the items that have them."""
    events = np.sort(np.bincount(dataset.events, minlength=dataset.items.height))[::-1]
    events = events[events > 0]
    ranks = np.unique(np.geomspace(1, len(events), _POINTS).astype(np.int64))
    return ranks, events[ranks - 1]


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step of preparation as a row: what is left after it, and what it dropped, in words."""
    measured = {what: step[what] for what in ("users", "items", "events", "rows") if what in step}
    dropped = [
        f"{count:,} {what} {reason.replace('_', ' ')}"
        for what, account in measured.items()
        for reason, count in account["dropped"].items()
        if count
    ]
    return {
        "name": step["step"].replace("_", " "),
        "kept": [measured[what]["kept"] if what in measured else None for what in ("users", "items", "events")],
        "dropped": "; ".join(dropped),
    }
