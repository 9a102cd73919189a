"""Compare evaluated RUNs with each other and with popularity: who is best, and how sure that is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cftrec.artefacts import new_folder, refuse_if_taken, write_json
from cftrec.errors import InputError
from cftrec.evaluation.effects import GROUPS, popularity_groups
from cftrec.evaluation.measures import COLUMNS, TESTED, Measures, estimate, measure, padded
from cftrec.evaluation.methods import Method, differing_options, methods
from cftrec.evaluation.metrics import as_ranks
from cftrec.evaluation.report import render_report
from cftrec.evaluation.runs import EvaluatedRun, Model, notes, read_runs
from cftrec.evaluation.significance import DRAWS, LEVEL, Resampled, holm, intervals, paired_tests, resample, user_codes
from cftrec.evaluation.slices import slice_rows, slices
from cftrec.evaluation.verdict import POPULAR, against_popularity, verdict

SHARED_TOP = 10  # recommendations counted by popularity group


def compare(
    runs: Sequence[Path],
    out: Path,
    *,
    names: Sequence[str | None] | None = None,
    group_seeds: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Compare evaluated RUNs and write a comparison folder with summary.json and report.html.

    The row `popular` (the popularity baseline, from the first RUN's training counts) comes first unless a RUN has
    this name; the methods follow in the given order. A method is a RUN, or several RUNs that differ in their seed
    alone: then its metrics are the means over them, and intervals and tests cover the choice of users and of seeds.

    Args:
        runs: folders of RUNs, each with an evaluation of the same test targets.
        out: the comparison folder; must be free.
        names: a name for each RUN, None: its own. RUNs of one name are seeds of one method.
        group_seeds: RUNs whose configs differ in their seed alone are one method (`methods.methods`).
        draws: bootstrap samples of the users, and sign flips of the permutation test.
        seed: of both.
        progress: called with (tables done, tables in all).

    Returns:
        The summary: `headline`, `rows` (every metric and its 95 % interval `_ci`), `tests` (every pair a, b and
        each of HR@10, NDCG@10, MRR@10: difference a - b, p, ci, p_permutation, and p_holm and p_permutation_holm
        adjusted for the number of pairs), `slices` (the rows of kinds of targets), `seeds` (the RUNs of each method
        that has several), users, targets, the history's effect on each RUN's answers, popularity groups, and the
        facts of the evaluation. Intervals are None where there is one user.

    Raises:
        InputError: `out` is taken, fewer than one draw, or RUNs that cannot be compared (`runs.read_runs`,
            `methods.methods`).
    """
    refuse_if_taken(out)
    if draws < 1:
        raise InputError(f"--draws {draws}: must be at least 1")
    given = names or [None] * len(runs)
    read = [replace(run, given=name) for run, name in zip(read_runs(runs), given, strict=True)]
    rows = _rows(read, methods(read, group_seeds))
    summary = _summarise(read, rows, draws, seed, progress or (lambda done, total: None))
    html = render_report(summary, [row.shown for row in rows], read)
    manifest = {"runs": [{"name": run.name, "folder": run.path.name} for run in read], "draws": draws, "seed": seed}
    with new_folder(out, "comparison", manifest) as staging:
        write_json(staging / "summary.json", summary)
        (staging / "report.html").write_text(html, encoding="utf-8")
    return summary


@dataclass(frozen=True)
class _Row:
    """One row: what the report shows of it, and the tables of its seeds with the RUN each is of."""

    shown: Model
    tables: list[pl.DataFrame]  # `evaluate.RANKS_SCHEMA`, of all seeds in the same order
    runs: list[EvaluatedRun]
    method: Method | None  # None: the popularity baseline

    def measures(self) -> list[Measures]:
        return [measure(table, run.item_ids, run.counts) for table, run in zip(self.tables, self.runs, strict=True)]

    def top(self, item_ids: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the first items of each seed's lists as indices into another catalogue."""
        return [padded(table["items"], item_ids, SHARED_TOP) for table in self.tables]


def _rows(runs: Sequence[EvaluatedRun], found: Sequence[Method]) -> list[_Row]:
    rows = []
    for method in found:
        tables = [run.ranks for run in method.runs]
        rows.append(_Row(_shown(method.name, tables[0], method.runs[0].effects), tables, method.runs, method))
    if POPULAR in {method.name for method in found}:
        return rows
    table = runs[0].ranks.with_columns(runs[0].popular["rank"], runs[0].popular["items"])
    return [_Row(_shown(POPULAR, table, None), [table], [runs[0]], None), *rows]


def _shown(name: str, table: pl.DataFrame, effects: dict[str, Any] | None) -> Model:
    return Model(name, as_ranks(table["rank"]), table["items"].to_list(), effects)


def _summarise(
    runs: Sequence[EvaluatedRun], rows: Sequence[_Row], draws: int, seed: int, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    first = runs[0]
    users = user_codes(first.ranks["user"].to_numpy())
    cut = slices(first.ranks, first.item_ids, first.counts)
    done = iter(range(1, len(cut) + 2))

    def advance() -> None:
        progress(next(done), len(cut) + 1)

    shown = [row.shown for row in rows]
    names = [one.name for one in shown]
    measures = [row.measures() for row in rows]
    estimates, resampled = estimate(measures, draws=draws, seed=seed, trainings=_trainings(rows))
    advance()
    by_slice = slice_rows(cut, measures, draws=draws, seed=seed, advance=advance)
    table = [{"model": name} | row for name, row in zip(names, estimates, strict=True)]
    tests = _tests(names, resampled, seed)
    several = {row.shown.name: _seeds(row, one) for row, one in zip(rows, measures, strict=True) if len(row.runs) > 1}
    facts = {
        key: first.evaluation.get(key) for key in ("split", "k", "dataset", "catalogue_items", "sample", "keep_history")
    }
    return {
        "headline": verdict(table, tests),
        "against_popularity": against_popularity(table, tests),
        "rows": table,
        "tests": tests,
        "slices": [{"model": name} | row for part in by_slice for name, row in zip(names, part, strict=True)],
        "seeds": several,
        "users": int(users.max()) + 1,
        "targets": int(users.size),
        **facts,
        "bootstrap": {
            "draws": draws,
            "seed": seed,
            "level": LEVEL,
            "resampled": "users and seeds" if several else "users",
        },
        "notes": [*notes(runs), *_seed_notes(rows)],
        "effects": {row.shown.name: row.shown.effects for row in rows if row.shown.effects is not None},
        "popularity": _popularity(first, rows, users, draws, seed),
    }


def _trainings(rows: Sequence[_Row]) -> list[int]:
    """Number the rows' trainings: lists of the same RUNs, made in several ways, have the same luck of training."""
    runs = [tuple(run.run for run in row.runs) if row.method else () for row in rows]
    return [runs.index(one) for one in runs]


def _tests(names: Sequence[str], resampled: Sequence[Resampled], seed: int) -> list[dict[str, Any]]:
    """Test every pair; the later row is `a`, so a positive difference speaks for it. A metric's pairs are a family."""
    pairs = [(later, earlier) for earlier, later in combinations(range(len(names)), 2)]
    if not pairs:
        return []
    tested = [model.take([COLUMNS.index(metric) for metric in TESTED]) for model in resampled]
    results = paired_tests([(tested[a], tested[b]) for a, b in pairs], seed=seed)
    tests = []
    for metric, family in zip(TESTED, zip(*results, strict=True), strict=True):
        adjusted = holm([result.p for result in family])
        permuted = holm([result.p_permutation for result in family])
        for (a, b), result, p_holm, p_permutation_holm in zip(pairs, family, adjusted, permuted, strict=True):
            tests.append(
                {
                    "a": names[a],
                    "b": names[b],
                    "metric": metric,
                    "difference": result.difference,
                    "p": result.p,
                    "ci": result.ci and list(result.ci),
                    "p_holm": p_holm,
                    "p_permutation": result.p_permutation,
                    "p_permutation_holm": p_permutation_holm,
                }
            )
    return tests


def _seeds(row: _Row, measures: Sequence[Measures]) -> list[dict[str, Any]]:
    """Return the RUNs of a method, each with its seed and its own metrics."""
    columns = [COLUMNS.index(metric) for metric in TESTED]
    seeds = row.method.seeds if row.method else []
    return [
        {"run": run.name, "seed": seed} | dict(zip(TESTED, one.values[:, columns].mean(axis=0).tolist(), strict=True))
        for run, seed, one in zip(row.runs, seeds, measures, strict=True)
    ]


def _seed_notes(rows: Sequence[_Row]) -> list[str]:
    """Return what a reader must know of methods that are several RUNs."""
    told = []
    for method in (row.method for row in rows if row.method and len(row.method.runs) > 1):
        told.append(
            f"{method.name} is the mean of {len(method.runs)} RUNs; what is shown of single users and of log p is that "
            f"of the first, {method.runs[0].name}."
        )
        if others := differing_options(method):
            told.append(f"The RUNs of {method.name} differ not in their seed alone but also in {', '.join(others)}.")
    return told


def _popularity(
    first: EvaluatedRun, rows: Sequence[_Row], users: NDArray[np.int64], draws: int, seed: int
) -> dict[str, Any]:
    """Return the shares of five groups of equal training mass in the histories and in each model's top 10.

    All with 95 % intervals, which are None for one user; `shift` is what the recommendations' share is above that of
    the histories.
    """
    group = np.append(popularity_groups(first.counts), GROUPS)  # the extra cell serves padding and unknown items
    histories = _group_counts([padded(first.ranks["history"], first.item_ids)], group)
    listed = [_group_counts(row.top(first.item_ids), group) for row in rows]
    past, *lists = [_shares(one) for one in resample([histories, *listed], users, draws=draws, seed=seed)]
    training = np.bincount(group[:-1], weights=first.counts, minlength=GROUPS) / max(1, first.counts.sum())
    names = [row.shown.name for row in rows]
    shifts = [(one[0] - past[0], one[1] - past[1]) for one in lists]

    def bounds(drawn: NDArray[np.float64]) -> list[list[float]] | list[None]:
        return intervals(drawn).tolist() if users.max() else [None] * GROUPS

    return {
        "items": np.bincount(group[:-1], minlength=GROUPS).tolist(),
        "training": training.tolist(),
        "histories": past[0].tolist(),
        "histories_ci": bounds(past[1]),
        "recommended": {name: share.tolist() for name, (share, _) in zip(names, lists, strict=True)},
        "recommended_ci": {name: bounds(drawn) for name, (_, drawn) in zip(names, lists, strict=True)},
        "shift": {name: shift.tolist() for name, (shift, _) in zip(names, shifts, strict=True)},
        "shift_ci": {name: bounds(drawn) for name, (_, drawn) in zip(names, shifts, strict=True)},
    }


def _group_counts(tables: Sequence[NDArray[np.int64]], group: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return how many items of each group each list holds, float64 [S, n, groups]."""
    return np.stack([(group[table][:, :, None] == np.arange(GROUPS)).sum(axis=1) for table in tables]).astype(float)


def _shares(counts: Resampled) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the groups' shares [groups] and drawn shares [draws, groups]; zeros where there is no item."""
    drawn = counts.drawn / np.maximum(counts.drawn.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return counts.means / max(counts.means.sum(), np.finfo(float).tiny), drawn
