"""The report's plots as inline SVG whose colours are the page's own variables, so that they follow light and dark."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

# Matplotlib wants real colours; each stands for a variable of the page and is replaced in the SVG.
_INK, _MUTED, _RULE, _FIRST, _SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
}
_SERIES = (_FIRST, _SECOND, _MUTED)
_WIDE, _NARROW = 4.6, 4.2  # inches of 72 units: drawn for a phone's width; a wide page shows two or three side by side
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 12,
    "text.parse_math": False,  # a model's name may hold a dollar sign
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
}


def counts(names: Sequence[str], values: NDArray[np.int64], of: str, what: str) -> Markup:
    """Draw how many there are of each group as bars.

    Args:
        names: [groups] where each group begins.
        values: [groups] counts.
        of: what groups are made by, the label below.
        what: what is counted.
    """
    place = np.arange(len(names))

    def draw(axes: Axes) -> None:
        axes.bar(place, values, width=0.8, color=_FIRST)
        step = 1 + len(names) // 8
        axes.set_xticks(place[::step], [f"{name}+" for name in names[::step]])
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        axes.set_xlabel(of)
        axes.set_ylabel(what)
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    told = ", ".join(f"from {name} {value:,}" for name, value in zip(names, values, strict=True))
    return _svg(f"{what} by {of}: {told}.", (_NARROW, 2.6), draw)


def ranks(places: NDArray[np.int64], values: NDArray[np.int64], of: str, what: str) -> Markup:
    """Draw values that fall with their rank, both axes logarithmic.

    Args:
        places: [n] ranks from 1.
        values: [n] counts above 0.
        of: what is ranked, the label below.
        what: what is counted.
    """

    def draw(axes: Axes) -> None:
        axes.plot(places, values, color=_FIRST, linewidth=2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(of)
        axes.set_ylabel(what)
        axes.grid(axis="both")

    told = f"{values[0]:,} at rank 1, {values[len(values) // 2]:,} at rank {places[len(values) // 2]:,}"
    return _svg(f"{what} by {of}: {told}, {values[-1]:,} at rank {places[-1]:,}.", (_NARROW, 2.6), draw)


def timeline(parts: Mapping[str, NDArray[np.int64]], period: Sequence[str]) -> Markup:
    """Draw events over time as stacked bars: training, validation and test, and what stands in histories only.

    Args:
        parts: train, validation, test and others -> [bins] events.
        period: where the first bin begins and the last one ends.
    """
    bins = np.arange(len(next(iter(parts.values()))))
    tops = np.cumsum(list(parts.values()), axis=0)

    def draw(axes: Axes) -> None:
        for top, values, colour in zip(tops, parts.values(), (_FIRST, _SECOND, _SECOND, _MUTED), strict=True):
            axes.bar(bins, values, bottom=top - values, width=0.9, color=colour)
        axes.set_xticks([0, bins[-1]], list(period))
        axes.get_xticklabels()[0].set_horizontalalignment("left")
        axes.get_xticklabels()[1].set_horizontalalignment("right")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        axes.set_ylabel("events")
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    told = ", ".join(f"{values.sum():,} {part}" for part, values in parts.items())
    return _svg(f"Events over time from {period[0]} to {period[1]}: {told}.", (_NARROW, 2.6), draw)


def dots(rows: Sequence[Mapping[str, Any]], metric: str) -> Markup:
    """Draw one metric of each model as a dot with its 95 % interval, where it has one."""
    names = [_short(row["model"]) for row in rows]
    means = np.array([row[metric] for row in rows])
    low, high = _bounds([row[f"{metric}_ci"] for row in rows])
    place = np.arange(len(rows))[::-1]
    best = means == means.max()

    def draw(axes: Axes) -> None:
        for chosen, colour in ((~best, _MUTED), (best, _FIRST)):
            axes.hlines(place[chosen], low[chosen], high[chosen], color=colour, linewidth=2.5)
            axes.plot(means[chosen], place[chosen], "o", color=colour, markersize=9)
        for y, mean in zip(place, means, strict=True):
            axes.annotate(f"{mean:.4f}", (mean, y), xytext=(0, 9), textcoords="offset points", ha="center")
        axes.set_yticks(place, names)
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        axes.set_ylim(-0.6, len(rows) - 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x")

    told = "; ".join(f"{row['model']} {row[metric]:.4f}{_told(row[f'{metric}_ci'], '.4f')}" for row in rows)
    return _svg(f"{metric} of each model with its 95 % interval: {told}.", (_WIDE, 0.5 + 0.5 * len(rows)), draw)


def slices(kind: str, metric: str, series: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
    """Draw one metric of up to three models by kind of target, dots with 95 % intervals side by side.

    Args:
        kind: what the targets are sorted by; names the axis.
        metric: drawn.
        series: model -> its rows of this kind, with "value", the metric and its interval; the same values for all.
    """
    values = [row["value"] for row in next(iter(series.values()))]
    place = np.arange(len(values), dtype=float)

    def draw(axes: Axes) -> None:
        for number, (rows, colour, marker) in enumerate(zip(series.values(), _SERIES, "os^", strict=False)):
            x = place + 0.2 * (number - (len(series) - 1) / 2)
            low, high = _bounds([row[f"{metric}_ci"] for row in rows])
            axes.vlines(x, low, high, color=colour, linewidth=2.5)
            axes.plot(x, [row[metric] for row in rows], marker, color=colour, markersize=7)
        axes.set_xticks(place, values)
        axes.set_xlim(-0.6, len(values) - 0.4)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y")
        axes.set_xlabel(kind)

    told = "; ".join(
        f"{name} " + ", ".join(f"{row['value']}: {row[metric]:.4f}" for row in rows) for name, rows in series.items()
    )
    return _svg(f"{metric} by {kind}: {told}.", (_WIDE, 2.8), draw)


def log_probabilities(name: str, choices: Sequence[Mapping[str, Any]], floor: float) -> Markup:
    """Draw a model's mean log p by choice (solid) and the prior's (dashed); between them lies the history's effect.

    Args:
        name: of the model, for the text alternative.
        choices: rows to draw, at least one: `by_choice` of `effect_summary.summarise`.
        floor: lower end of the axis in nats, common to all models.
    """
    place, known, prior = (np.array([row[key] for row in choices]) for key in ("choice", "log_p", "log_prior"))

    def draw(axes: Axes) -> None:
        axes.plot(place, known, "o-", color=_FIRST, linewidth=2, markersize=5)
        axes.plot(place, prior, "s--", color=_SECOND, linewidth=2, markersize=4.5)
        axes.set_ylim(floor * 1.06, -floor * 0.02)
        axes.set_xticks(place[:: 1 + len(place) // 10])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y")
        axes.set_xlabel("choice on the way to the title")
        axes.set_ylabel("mean log p (nats)")

    told = f"from {known[0]:.2f} with history and {prior[0]:.2f} of the prior at the first choice"
    told += f" to {known[-1]:.2f} and {prior[-1]:.2f} at choice {place[-1]}"
    return _svg(f"{name}: mean log p of the true next title by choice, {told}.", (_WIDE, 2.8), draw)


def effects(name: str, axis: str, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Markup:
    """Draw mean effects as dots with their 95 % intervals, where they have one, side by side.

    Args:
        name: of the model, for the text alternative.
        axis: what the rows are.
        rows: at least one, each with `mean` and `ci` (nats; None: no interval).
        labels: what each row is called.
    """
    place = np.arange(len(rows))
    mean, (low, high) = np.array([row["mean"] for row in rows]), _bounds([row["ci"] for row in rows])

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=_MUTED, linewidth=1)
        axes.vlines(place, low, high, color=_FIRST, linewidth=2.5)
        axes.plot(place, mean, "o", color=_FIRST, markersize=7)
        axes.set_xlim(-0.6, len(rows) - 0.4)
        step = 1 + len(rows) // 10
        axes.set_xticks(place[::step], labels[::step])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_xlabel(axis)
        axes.set_ylabel("effect (nats)")

    told = "; ".join(
        f"{label}: {row['mean']:.2f}{_told(row['ci'], '.2f')}" for label, row in zip(labels, rows, strict=True)
    )
    return _svg(f"{name}: mean effect of the history by {axis}: {told}.", (_WIDE, 2.6), draw)


def popularity(name: str, recommended: Sequence[float], histories: Sequence[float], ceiling: float) -> Markup:
    """Draw the share of a model's recommendations in each popularity group (bars) against the histories' (lines).

    Args:
        name: of the model, for the text alternative.
        recommended: [groups] shares of the model's recommendations.
        histories: [groups] shares of the histories.
        ceiling: upper end of the axis, a share common to all models.
    """
    place = np.arange(1, len(recommended) + 1)

    def draw(axes: Axes) -> None:
        axes.bar(place, recommended, width=0.62, color=_FIRST)
        axes.hlines(histories, place - 0.42, place + 0.42, color=_SECOND, linewidth=3)
        axes.set_ylim(0, min(1.0, ceiling * 1.08) + 0.02)
        axes.set_xticks(place, ["1\nmost popular", *(str(n) for n in place[1:-1]), f"{place[-1]}\nrarest"])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="y")
        axes.set_axisbelow(True)

    told = ", ".join(f"{mine:.0%} ({past:.0%})" for mine, past in zip(recommended, histories, strict=True))
    return _svg(
        f"{name}: share of recommendations (and of histories) from popular to rare: {told}.", (_NARROW, 2.5), draw
    )


def _bounds(intervals: Sequence[Sequence[float] | None]) -> NDArray[np.float64]:
    """Return lower and upper ends, float64 [2, n]; NaN, of which nothing is drawn, where there is no interval."""
    return np.array([(np.nan, np.nan) if one is None else one for one in intervals]).T


def _told(interval: Sequence[float] | None, form: str) -> str:
    return "" if interval is None else f", interval {interval[0]:{form}} to {interval[1]:{form}}"


def _short(name: str, limit: int = 22) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _svg(alternative: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> Markup:
    """Return a figure of `size` inches, drawn by `draw(axes)`, as an SVG element with a text alternative."""
    style: Any = {**_STYLE, "svg.hashsalt": alternative}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Markup(_inline(buffer.getvalue(), alternative))  # matplotlib escapes every text it draws


def _inline(svg: str, alternative: str) -> str:
    """Make a stand-alone SVG file an element of a page: no prologue, no fixed size, no repeated ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#([A-Za-z][\w.-]*)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box[0] if box else ""} role="img" '
    svg = re.sub(r"<svg[^>]*>", lambda _: opening + f'aria-label="{escape(alternative)}">', svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.strip()
