"""What measured effects come to: means by position, history length and popularity, favourites, and whether they fade.

Intervals and p are by bootstrap over users; all means of one summary see the same draws. What is known of one
user alone has neither.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cftrec.decoding.priors import SMOOTHING
from cftrec.evaluation.significance import DRAWS, LEVEL, intervals, resampled_means, two_sided_p, user_codes

Floats = NDArray[np.float64]

PARTS = 5
"""Parts of about equal size into which history lengths are cut."""
SURE = 0.05


def summarise(table: pl.DataFrame, prior: str, favourites: Mapping[int, float]) -> dict[str, Any]:
    """Return what effects.json holds; every mean is {"mean", "ci": 95 % interval, "targets"}, in nats but for shares.

    Where the targets of a mean are one user's, `ci` is None, and so is `p`.

    Args:
        table: `effects.EFFECTS_SCHEMA`, a row a target.
        prior: its name.
        favourites: number of favourites -> their probability under the prior.

    Returns:
        `prior`, `targets`, `users` and, where there is a target: `effect`, `log_p`, `log_prior`; `by_choice`,
        `by_history_length`, `by_popularity`; `favourites` (the probability that the model, with the history, gives to
        the favourites, and the share of targets among them); `fade` (`slope`, the change from a title's first choice
        to its last by a straight line through each title of two choices or more, its `p`, and a `sentence`).
    """
    facts: dict[str, Any] = {"prior": prior, "softmax": "catalogue", "unit": "nats"}
    facts |= {"smoothing": SMOOTHING} if prior == "counts" else {}
    facts |= {"targets": table.height, "users": table["user"].n_unique()}
    if table.is_empty():
        return facts
    known, expected = _padded(table["log_p"]), _padded(table["log_prior"])
    part = length_parts(table["history_length"].to_numpy())
    columns = _columns(table, known - expected, part, favourites)
    users = user_codes(table["user"].to_numpy())
    drawn = _drawn_means(columns, users)
    means = {
        name: [_mean(values, draws, users) for values, draws in zip(block.T, drawn[name].T, strict=True)]
        for name, block in columns.items()
    }
    return facts | {
        "bootstrap": {"draws": DRAWS, "seed": 0, "level": LEVEL, "resampled": "users"},
        "effect": means["effect"][0],
        "log_p": float(np.nansum(known)) / table.height,
        "log_prior": float(np.nansum(expected)) / table.height,
        "by_choice": _by_choice(known, expected, means["by_choice"]),
        "by_history_length": [
            {"from": int(own.min()), "to": int(own.max())} | mean
            for own, mean in zip(_members(table["history_length"], part), means["by_history_length"], strict=True)
        ],
        "by_popularity": [{"group": n} | mean for n, mean in enumerate(means["by_popularity"], 1) if mean["targets"]],
        "favourites": [
            {"top": top, "prior": mass, "model": means[f"favourites_{top}"][0], "data": means[f"favourites_{top}"][1]}
            for top, mass in favourites.items()
        ],
        "fade": _fade(means["effect"][0], means["slope"][0], drawn["slope"]),
    }


def _columns(
    table: pl.DataFrame, effects: Floats, part: NDArray[np.int64], favourites: Iterable[int]
) -> dict[str, Floats]:
    """Return what is averaged, [n, columns] under each name; NaN where a target has no such value."""
    total = table["effect"].to_numpy()
    columns = {
        "effect": total[:, None],
        "by_choice": effects,
        "by_history_length": _apart(total, part),
        "by_popularity": _apart(total, table["group"].to_numpy() - 1),
        "slope": _slopes(effects)[:, None],
    }
    shares = {f"favourites_{top}": table.select(f"mass_{top}", f"hit_{top}").cast(pl.Float64) for top in favourites}
    return columns | {name: frame.to_numpy() for name, frame in shares.items()}


def _by_choice(known: Floats, expected: Floats, means: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the choices that some target has."""
    rows = zip(_column_means(known), _column_means(expected), means, strict=True)
    return [
        {"choice": number, "log_p": log_p, "log_prior": log_prior} | mean
        for number, (log_p, log_prior, mean) in enumerate(rows, start=1)
        if mean["targets"]
    ]


def _padded(lists: pl.Series) -> Floats:
    """Return lists as float64 [n, longest, at least 1], filled up with NaN."""
    sizes = lists.list.len().to_numpy()
    table = np.full((len(lists), max(1, int(sizes.max(initial=0)))), np.nan)
    table[np.arange(table.shape[1]) < sizes[:, None]] = lists.explode().drop_nulls().to_numpy()
    return table


def length_parts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut history lengths into parts of about equal size, equal ones never apart: int64 [n], 0 .. parts - 1."""
    edges = np.quantile(lengths, np.arange(1, PARTS) / PARTS, method="lower")
    return np.unique(np.searchsorted(edges, lengths, side="left"), return_inverse=True)[1]


def _members(values: pl.Series, part: NDArray[np.int64]) -> list[NDArray[Any]]:
    return [values.to_numpy()[part == number] for number in range(part.max() + 1)]


def _apart(values: Floats, group: NDArray[np.integer]) -> Floats:
    """Return [n, groups]: each value in the column of its group, counted from 0, and NaN elsewhere."""
    return np.where(np.arange(group.max() + 1) == group[:, None], values[:, None], np.nan)


def _slopes(effects: Floats) -> Floats:
    """Return for each title the change from its first choice to its last by least squares, [n]; NaN below two choices.

    Places run from 0 to 1, as those of the training's linear weights.
    """
    choices = (~np.isnan(effects)).sum(axis=1)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        place = np.arange(effects.shape[1]) / (choices - 1) - 0.5
        place[np.isnan(effects)] = np.nan
        slopes = np.nansum(place * effects, axis=1) / np.nansum(place**2, axis=1)
    return np.where(choices[:, 0] >= 2, slopes, np.nan)


def _column_means(values: Floats) -> list[float]:
    there = ~np.isnan(values)
    return (np.where(there, values, 0).sum(axis=0) / there.sum(axis=0).clip(1)).tolist()


def _drawn_means(columns: Mapping[str, Floats], users: NDArray[Any]) -> dict[str, Floats]:
    """Return bootstrap means of each column over its targets that have a value, float64 [draws, columns] a name."""
    drawn = resampled_means(np.concatenate(list(columns.values()), axis=1), users)
    ends = np.cumsum([block.shape[1] for block in columns.values()])
    return dict(zip(columns, np.split(drawn, ends[:-1], axis=1), strict=True))


def _mean(values: Floats, drawn: Floats, users: NDArray[np.int64]) -> dict[str, Any]:
    """Return mean, interval and number of the values that are there; one user's have no interval."""
    known = ~np.isnan(values)
    if not known.any():
        return {"mean": None, "ci": None, "targets": 0}
    alone = np.ptp(users[known]) == 0
    ci = None if alone else intervals(drawn[:, None])[0].tolist()
    return {"mean": float(values[known].mean()), "ci": ci, "targets": int(known.sum())}


def _fade(effect: Mapping[str, Any], slope: dict[str, Any], drawn: Floats) -> dict[str, Any]:
    """Say whether the effect gets weaker along a title."""
    p = None if slope["ci"] is None else two_sided_p(drawn[~np.isnan(drawn)])
    return {"slope": slope, "p": p, "sentence": _fade_sentence(effect, slope, p)}


def _fade_sentence(effect: Mapping[str, Any], slope: Mapping[str, Any], p: float | None) -> str:
    if not slope["targets"]:
        return "Whether the effect fades along a title cannot be asked: no measured title has two choices."
    way = "falls" if slope["mean"] < 0 else "grows"
    change = f"it {way} by {abs(slope['mean']):.2f} nats from a title's first choice to its last"
    if p is None:
        titles = "1 title" if slope["targets"] == 1 else f"{slope['targets']:,} titles"
        return f"Whether the effect fades cannot be told from one user: {change} ({titles})."
    evidence = f"95 % interval of the change {_span(slope['ci'])}, p = {p:.3f}, {slope['targets']:,} titles"
    if effect["ci"][0] <= 0:
        return (
            f"There is no effect that could fade: its mean, {_signed(effect['mean'])} nats, is not surely above 0 "
            f"(95 % interval {_span(effect['ci'])}); {change} ({evidence})."
        )
    if p >= SURE:
        return f"Whether the effect fades is open: {change}, which may be chance ({evidence})."
    return f"The effect {'fades' if slope['mean'] < 0 else 'does not fade'}: {change} ({evidence})."


def _span(interval: Sequence[float]) -> str:
    return " to ".join(map(_signed, interval))


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
