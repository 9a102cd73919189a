"""Render a comparison as one self-contained HTML page."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from cftrec.artefacts import package_versions
from cftrec.evaluation import charts
from cftrec.evaluation.measures import TESTED
from cftrec.evaluation.metrics import CUTOFFS, KINDS
from cftrec.evaluation.runs import EvaluatedRun, Model
from cftrec.evaluation.showcase import choose_users
from cftrec.evaluation.significance import user_codes
from cftrec.evaluation.verdict import METRIC, is_sure

_MEANING = {
    "HR": "Hit rate: share of targets in the first k",
    "NDCG": "1 / log2(1 + rank) in the first k",
    "MRR": "1 / rank in the first k",
    "Recall": "Share of a user’s targets in the first k, every user counted alike",
}
_LISTED = {
    "coverage@10": "share of the catalogue that somebody is recommended",
    "Gini@10": "inequality of how often items are recommended: 0 all alike, 1 one item only",
    "popularity@10": "training events of a recommended item",
    "novelty@10": "bits: −log₂ of a recommended item’s share of the training events",
    "shift@10": "popularity groups between a list and its user’s history; below 0: more popular",
}
_KINDS_OF_SLICES = {
    "history length": "items in the history",
    "target popularity": "popularity group of the target, 1 the most popular",
    "cold target": "target never seen in training",
}
_DRAWN = 3  # models in a plot of slices
_PLOTTED = ("NDCG@10", "HR@10")
_SHOWN_PAIRS = 6  # more pairs of models than that are folded away, but for those with the best model
_SHOWN_ITEMS = 10  # of each list and of each history
_COMMON = 0.05  # choices that fewer targets reach (as a share of all measured) are left out of the plots


def page_environment(folder: Path) -> Environment:
    """Return what fills a folder's templates: texts are escaped, and what is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = _thousands
    return environment


def render_report(summary: Mapping[str, Any], models: Sequence[Model], runs: Sequence[EvaluatedRun]) -> str:
    """Return the report's HTML.

    Titles, ids, names and options are untrusted text and escaped. Nothing is fetched: plots are inline SVG.

    Args:
        summary: what summary.json holds.
        models: the rows, in the order of the summary's.
        runs: the RUNs among them.
    """
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {
        "signed": _signed,
        "percent": _percent,
        "ordinal": _ordinal,
        "unbroken": _unbroken,
        "minus": _minus,
        "digits": _digits,
        "p_value": _p_value,
    }
    return environment.get_template("report.html.j2").render(
        summary=summary,
        names=[model.name for model in models],
        metrics=list(_metric_groups(summary)),
        slices=_slices(summary),
        tested=TESTED,
        listed=_listed(summary["rows"]),
        dots=[(metric, charts.dots(summary["rows"], metric)) for metric in _PLOTTED],
        pairs=_pairs(summary),
        effects=_effects(models),
        popularity=_popularity(summary["popularity"]),
        cases=list(_cases(models, runs)),
        runs=[_provenance(run) for run in runs],
        dataset=_dataset(summary),
        dataset_facts=_flat(summary["dataset"] or {}),
        versions=package_versions(),
    )


def _metric_groups(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the metrics table: for each kind of metric its rows, one cell a model, the best marked.

    At 1 the kinds are equal, so only the first kind has this row. Recall differs from HR only where a user has several
    targets.
    """
    rows = summary["rows"]
    for kind in KINDS if summary["targets"] == summary["users"] else (*KINDS, "Recall"):
        lines = []
        for cutoff in CUTOFFS if kind == KINDS[0] else CUTOFFS[1:]:
            name = f"{kind}@{cutoff}"
            lines.append({"name": name, "cells": _cells(rows, name)})
        yield {"kind": kind, "meaning": _MEANING[kind], "lines": lines}


def _cells(rows: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return one metric of each model, the best marked."""
    best = max(row[name] for row in rows)
    return [{"mean": row[name], "ci": row[f"{name}_ci"], "best": row[name] == best} for row in rows]


def _slices(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return NDCG@10 by kind of target: plots of the best models, and for each kind one line a value."""
    best = sorted(summary["rows"], key=lambda row: -row[METRIC])[:_DRAWN]
    names = [row["model"] for row in best]
    plots, kinds = [], []
    for kind, meaning in _KINDS_OF_SLICES.items():
        rows = [row for row in summary["slices"] if row["slice"] == kind]
        values = dict.fromkeys(row["value"] for row in rows)
        lines = []
        for value in values:
            here = [row for row in rows if row["value"] == value]
            sizes = {"targets": here[0]["targets"], "users": here[0]["users"]}
            lines.append({"value": value, "cells": _cells(here, METRIC)} | sizes)
        kinds.append({"meaning": meaning, "lines": lines})
        if len(values) > 1:
            series = {name: [row for row in rows if row["model"] == name] for name in names}
            plots.append((f"{METRIC} by {kind}", charts.slices(meaning, METRIC, series)))
    return {"kinds": kinds, "plots": plots, "drawn": names}


def _listed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the metrics of what is recommended, one line each; a model without any list has none."""
    return [
        {
            "name": name,
            "meaning": meaning,
            "cells": [{"value": row.get(name), "ci": row.get(f"{name}_ci")} for row in rows],
        }
        for name, meaning in _LISTED.items()
    ]


def _pairs(summary: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the tests pair by pair, the last models' first; of many pairs, those with the best model come apart."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for test in summary["tests"]:
        grouped.setdefault((test["a"], test["b"]), []).append({**test, "sure": is_sure(test)})
    pairs = [{"a": a, "b": b, "tests": grouped[a, b]} for a, b in reversed(grouped)]
    best = max(summary["rows"], key=lambda row: row[METRIC])["model"]
    first = [pair for pair in pairs if best in (pair["a"], pair["b"]) or len(pairs) <= _SHOWN_PAIRS]
    return {"first": first, "others": [pair for pair in pairs if pair not in first]}


def _effects(models: Sequence[Model]) -> list[dict[str, Any]]:
    """Return what is shown of the history's effect on each measured model; plots of log p share one axis."""
    measured = {model.name: model.effects for model in models if model.effects and model.effects["targets"]}
    choices = {
        name: [row for row in effects["by_choice"] if row["targets"] >= _COMMON * effects["targets"]]
        for name, effects in measured.items()
    }
    floor = min((row[side] for rows in choices.values() for row in rows for side in ("log_p", "log_prior")), default=-1)
    return [
        {
            "model": name,
            **effects,
            "by_choice": choices[name],
            "plots": list(_effect_plots(name, effects, choices[name], floor)),
        }
        for name, effects in measured.items()
    ]


def _effect_plots(
    name: str, effects: Mapping[str, Any], choices: Sequence[Mapping[str, Any]], floor: float
) -> Iterator[tuple[str, Markup]]:
    """Yield title and plot: log p and effect by choice, if there are several, and by history length and popularity."""
    if len(choices) > 1:
        yield "log p by choice", charts.log_probabilities(name, choices, floor)
        yield "effect by choice", charts.effects(name, "choice on the way to the title", choices, _numbers(choices))
    lengths = effects["by_history_length"]
    spans = [str(row["from"]) if row["from"] == row["to"] else f"{row['from']}–{row['to']}" for row in lengths]
    yield "effect by history length", charts.effects(name, "items in the history", lengths, spans)
    groups = effects["by_popularity"]
    yield (
        "effect by popularity of the target",
        charts.effects(name, "group, from most popular to rarest", groups, [str(row["group"]) for row in groups]),
    )


def _numbers(choices: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(row["choice"]) for row in choices]


def _popularity(shares: Mapping[str, Any]) -> dict[str, Any]:
    ceiling = max(*shares["histories"], *(max(mine) for mine in shares["recommended"].values()))
    plots: list[tuple[str, Markup]] = [
        (name, charts.popularity(name, mine, shares["histories"], ceiling))
        for name, mine in shares["recommended"].items()
    ]
    return {**shares, "plots": plots}


def _cases(models: Sequence[Model], runs: Sequence[EvaluatedRun]) -> Iterator[dict[str, Any]]:
    """Yield what the report shows of each chosen user: history, true next title, all lists."""
    ranks = runs[0].ranks
    titles = {item_id: title for run in reversed(runs) for item_id, title in run.titles.items()}
    for row in choose_users(ranks["history_length"].to_numpy(), user_codes(ranks["user"].to_numpy()), _found(models)):
        case = ranks.row(int(row), named=True)
        history = case["history"][-_SHOWN_ITEMS:]
        yield {
            "user": case["user"],
            "length": case["history_length"],
            "earlier": case["history_length"] - len(history),
            "history": [titles.get(item, item) for item in history],
            "target": titles.get(case["target"], case["target"]),
            "lists": [_list(model, int(row), case["target"], titles) for model in models],
            "finders": [model.name for model in models if 1 <= model.ranks[row] <= _SHOWN_ITEMS],
        }


def _found(models: Sequence[Model]) -> NDArray[np.bool_]:
    """Return for each target whether a RUN has it in its first ten."""
    judged = [model for model in models if model.effects is not None]
    return np.any([(model.ranks >= 1) & (model.ranks <= _SHOWN_ITEMS) for model in judged], axis=0)


def _list(model: Model, row: int, target: str, titles: Mapping[str, str]) -> dict[str, Any]:
    items = model.items[row][:_SHOWN_ITEMS]
    return {
        "model": model.name,
        "rank": int(model.ranks[row]),
        "length": len(model.items[row]),
        "items": [{"title": titles.get(item, item), "hit": item == target} for item in items],
    }


def _provenance(run: EvaluatedRun) -> dict[str, Any]:
    """Return where a row comes from: training facts, as far as the manifest has them, and the whole config."""
    config = run.manifest.get("config", {})
    seconds = _find(run.manifest, "seconds")
    return {
        "name": run.label,
        "base": _find(config, "model"),
        "steps": _find(run.manifest, "steps"),
        "minutes": None if seconds is None else float(seconds) / 60,
        "seed": _find(config, "seed"),
        "exact": run.evaluation.get("exact_share"),
        "evaluation_seconds": run.evaluation.get("seconds"),
        "config": json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False, default=str),
        "versions": run.manifest.get("packages", {}),
    }


def _find(facts: Any, key: str) -> Any:
    """Return the value of a key at the top of a nested mapping, or of the first section that has it; None if none."""
    if not isinstance(facts, Mapping):
        return None
    if key in facts and not isinstance(facts[key], Mapping):
        return facts[key]
    return next((found for part in facts.values() if (found := _find(part, key)) is not None), None)


def _dataset(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data set's name, sizes and split rule, None where they are not known."""
    facts = summary["dataset"] or {}
    return {key: facts.get(key) for key in ("name", "users", "items", "events")} | {"rule": _find(facts, "rule")}


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested facts as one level of text, "split rule" for {"split": {"rule": ...}}."""
    flat: dict[str, str] = {}
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name} ")
        elif isinstance(value, list):
            flat |= _flat({str(number): part for number, part in enumerate(value, start=1)}, f"{name} ")
        else:
            flat[name] = f"{value:,}" if isinstance(value, int) else str(value)
    return flat


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−") if abs(value) >= 5e-5 else "0.0000"


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _digits(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _unbroken(text: str) -> str:
    """Keep a number and its sign on one line."""
    return text.replace("p = ", "p\u00a0=\u00a0").replace(" %", "\u00a0%")


def _thousands(value: int) -> str:
    return f"{value:,}"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"
