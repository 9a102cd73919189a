"""Compare evaluated RUNs with each other and with popularity: who is best, and how sure that is."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cftrec.artefacts import new_folder, refuse_if_taken, write_json
from cftrec.errors import InputError
from cftrec.evaluation.effects import GROUPS, group_shares, popularity_groups
from cftrec.evaluation.metrics import METRICS, as_ranks, means, per_target
from cftrec.evaluation.report import render_report
from cftrec.evaluation.runs import EvaluatedRun, Model, notes, read_runs
from cftrec.evaluation.significance import DRAWS, LEVEL, holm, intervals, paired_tests, resampled_means, user_codes
from cftrec.evaluation.verdict import POPULAR, against_popularity, verdict

TESTED = ("HR@10", "NDCG@10", "MRR@10")
SHARED_TOP = 10  # recommendations counted by popularity group


def compare(runs: Sequence[Path], out: Path, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Compare evaluated RUNs and write a comparison folder with summary.json and report.html.

    The row `popular` (the popularity baseline, from the first RUN's training counts) comes first unless a RUN has
    this name; the RUNs follow in the given order.

    Args:
        runs: folders of RUNs, each with an evaluation of the same test targets.
        out: the comparison folder; must be free.
        draws: bootstrap samples of the users.
        seed: of the bootstrap.

    Returns:
        The summary: `headline`, `rows` (every metric and its 95 % interval `_ci`), `tests` (every pair a, b and
        each of HR@10, NDCG@10, MRR@10: difference a - b, p, ci, and p_holm adjusted for the number of pairs), users,
        targets, the history's effect on each RUN's answers, popularity groups, and the facts of the evaluation.

    Raises:
        InputError: `out` is taken, fewer than one draw, or RUNs that cannot be compared (`runs.read_runs`).
    """
    refuse_if_taken(out)
    if draws < 1:
        raise InputError(f"--draws {draws}: must be at least 1")
    read = read_runs(runs)
    models = _models(read)
    summary = _summarise(read, models, draws, seed)
    html = render_report(summary, models, read)
    manifest = {"runs": [{"name": run.name, "folder": run.path.name} for run in read], "draws": draws, "seed": seed}
    with new_folder(out, "comparison", manifest) as staging:
        write_json(staging / "summary.json", summary)
        (staging / "report.html").write_text(html, encoding="utf-8")
    return summary


def _models(runs: Sequence[EvaluatedRun]) -> list[Model]:
    models = [Model(run.name, as_ranks(run.ranks["rank"]), run.ranks["items"].to_list(), run.effects) for run in runs]
    if POPULAR in {run.name for run in runs}:
        return models
    popular = runs[0].popular
    return [Model(POPULAR, as_ranks(popular["rank"]), popular["items"].to_list(), None), *models]


class _Measured(NamedTuple):
    """Per-target metric values of each model, the user of each target, and how users are drawn again."""

    models: Sequence[Model]
    values: Sequence[dict[str, NDArray[np.float64]]]
    users: NDArray[np.int64]
    draws: int
    seed: int


def _summarise(runs: Sequence[EvaluatedRun], models: Sequence[Model], draws: int, seed: int) -> dict[str, Any]:
    first = runs[0]
    users = user_codes(first.ranks["user"].to_numpy())
    values = [per_target(model.ranks) for model in models]
    measured = _Measured(models, values, users, draws, seed)
    rows, tests = _rows(measured), _tests(measured)
    facts = {key: first.evaluation.get(key) for key in ("split", "k", "dataset", "catalogue_items", "sample")}
    return {
        "headline": verdict(rows, tests),
        "against_popularity": against_popularity(rows, tests),
        "rows": rows,
        "tests": tests,
        "users": int(users.max()) + 1,
        "targets": int(users.size),
        **facts,
        "bootstrap": {"draws": draws, "seed": seed, "level": LEVEL, "resampled": "users"},
        "notes": notes(runs),
        "effects": {model.name: model.effects for model in models if model.effects is not None},
        "popularity": _popularity(first, models),
    }


def _rows(measured: _Measured) -> list[dict[str, Any]]:
    models, values, users, draws, seed = measured
    rows = []
    for model, metrics in zip(models, values, strict=True):
        matrix = np.stack([metrics[name] for name in METRICS], axis=1)
        bounds = intervals(resampled_means(matrix, users, draws=draws, seed=seed)).tolist()
        row: dict[str, Any] = {"model": model.name}
        for (name, mean), interval in zip(means(metrics).items(), bounds, strict=True):
            row |= {name: mean, f"{name}_ci": interval}
        rows.append(row)
    return rows


def _tests(measured: _Measured) -> list[dict[str, Any]]:
    """Test every pair; the later row is `a`, so a positive difference speaks for it."""
    models, values, users, draws, seed = measured
    pairs = [(later, earlier) for earlier, later in combinations(range(len(models)), 2)]
    if not pairs:
        return []
    tests = []
    for metric in TESTED:
        differences = np.stack([values[a][metric] - values[b][metric] for a, b in pairs], axis=1)
        results = paired_tests(differences, users, draws=draws, seed=seed)
        adjusted = holm([result.p for result in results])
        for (a, b), result, p_holm in zip(pairs, results, adjusted, strict=True):
            names = {"a": models[a].name, "b": models[b].name, "metric": metric}
            numbers = {"difference": result.difference, "p": result.p, "ci": list(result.ci), "p_holm": p_holm}
            tests.append(names | numbers)
    return tests


def _popularity(first: EvaluatedRun, models: Sequence[Model]) -> dict[str, Any]:
    """Return the shares of five groups of equal training mass in the histories and in each model's top 10."""
    group = popularity_groups(first.counts)
    index = {item_id: item for item, item_id in enumerate(first.item_ids)}

    def shares(lists: Sequence[Sequence[str]]) -> list[float]:
        flat = [index.get(item_id, -1) for items in lists for item_id in items]
        return group_shares(flat, group).tolist()

    return {
        "items": np.bincount(group, minlength=GROUPS).tolist(),
        "training": (np.bincount(group, weights=first.counts, minlength=GROUPS) / max(1, first.counts.sum())).tolist(),
        "histories": shares(first.ranks["history"].to_list()),
        "recommended": {model.name: shares([items[:SHARED_TOP] for items in model.items]) for model in models},
    }
