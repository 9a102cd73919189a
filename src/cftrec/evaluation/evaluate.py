"""Rank the whole catalogue for every held-out target of a split and write what came out into the RUN."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cftrec.artefacts import read_json, write_json
from cftrec.data.dataset import Dataset
from cftrec.decoding.priors import PRIORS
from cftrec.decoding.ungrounded import UngroundedResult
from cftrec.errors import InputError
from cftrec.evaluation.cases import Cases, cases_of, split_targets
from cftrec.evaluation.effects import Effects, Schema, effects_of, no_effects
from cftrec.evaluation.measures import ALL_METRICS
from cftrec.evaluation.metrics import CUTOFFS
from cftrec.evaluation.parts import Arrays, Parts
from cftrec.evaluation.popularity import rank_by_popularity
from cftrec.evaluation.ranker import Items, Ranker, Scorer
from cftrec.evaluation.significance import BOOTSTRAP
from cftrec.evaluation.slices import evaluation_table
from cftrec.evaluation.ways import Way
from cftrec.recommender import BATCH

_BATCH = 2 * BATCH  # histories searched at once
SHOWN_HISTORY = 20  # newest items of a history that are written beside its target
RANKS_SCHEMA: Schema = {
    "user": pl.String,
    "target": pl.String,
    "history_length": pl.Int64,
    "rank": pl.Int32,
    "items": pl.List(pl.String),
    "scores": pl.List(pl.Float32),
    "exact": pl.Boolean,
    "history": pl.List(pl.String),
}
POPULAR_SCHEMA: Schema = {"user": pl.String, "target": pl.String, "rank": pl.Int32, "items": pl.List(pl.String)}

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """One split's result.

    Attributes:
        metrics: flat means, {"HR@10": ...}.
        table: the same with 95 % intervals, first of all targets, then by slice, see `slices.slice_rows`.
        ranks: one row a target, see `RANKS_SCHEMA`; `history_length` counts all events before the target, `history`
            holds the newest of them that the RUN knows.
        popular: the popularity baseline on the same targets; its `rank` is exact in the whole catalogue.
        effects: the history's effect on a part of the targets.
        facts: what was evaluated: split, k, dataset, users, targets, seconds, exact_share, model, ...
    """

    metrics: dict[str, float]
    table: list[dict[str, Any]]
    ranks: pl.DataFrame
    popular: pl.DataFrame
    effects: Effects
    facts: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write metrics.json, the Parquet tables and, last, evaluation.json, which says that the others are whole."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").unlink(missing_ok=True)
        write_json(folder / "metrics.json", self.metrics)
        write_json(folder / "slices.json", {"bootstrap": BOOTSTRAP, "rows": self.table})
        write_json(folder / "effects.json", self.effects.summary)
        for name, table in {"ranks": self.ranks, "popular": self.popular, "effects": self.effects.table}.items():
            write_parquet(folder / f"{name}.parquet", table)
        write_json(folder / "evaluation.json", self.facts)


def evaluation_folder(run: Path, split: str, way: Way | None = None, sample: int | None = None, seed: int = 0) -> Path:
    """Return the folder that an evaluation is written to.

    The RUN holds that of the whole test split by log p, RUN/SPLIT that of another split; what ranks in another way or
    a sample of the targets goes into a folder in it that says so, such as beam-10, sample-1000 or beam-10-sample-1000.
    """
    parts = [] if way is None else [way.name]
    if sample is not None:
        parts += [f"sample-{sample}", *([f"seed-{seed}"] if seed else [])]
    return (run if split == "test" else run / split) / "-".join(parts)


def evaluate(
    recommender: Ranker,
    dataset: Dataset,
    split: str = "test",
    k: int = 20,
    out: Path | None = None,
    progress: Progress | None = None,
    *,
    batch_size: int = _BATCH,
    prior: str = "counts",
    effect_targets: int = 2_000,
    keep_history: bool = False,
    sample: int | None = None,
    seed: int = 0,
    way: Way | None = None,
) -> Evaluation:
    """Rank the whole catalogue for every target of a split.

    The dataset's items are found in the RUN's catalogue by item id. History items that the RUN does not know are
    dropped and counted; a target that it does not know is counted and is a miss. An evaluation that is written and was
    interrupted goes on with the first batch that is missing; its `seconds` are those of the last call.

    Args:
        recommender: the RUN, ready to search; a `Scorer` also has its log p measured.
        dataset: the log; its split decides the targets.
        split: "train", "validation" or "test".
        k: length of the lists, at least 20, which is as far as the metrics look; at most all items.
        out: the RUN's folder, where the files go into `evaluation_folder`. None writes nothing.
        progress: called with (targets done, targets in all) after each batch, those whose effect is measured counted
            twice.
        batch_size: histories searched at once.
        prior: what the history's effect is measured against, "counts", "trained" or "counterfactual".
        effect_targets: targets whose effect is measured, evenly spaced.
        keep_history: also rank the items of the history, for logs in which users take items again; by default they are
            left out, but for the target itself. Only a `Recommender` can.
        sample: rank so many random targets of the split only; None: all.
        seed: of the sample.
        way: another way to rank than by log p (`ways`); evaluation.json says what it is under "way".

    Returns:
        Metrics, ranks, the popularity baseline, the history's effect and the facts of the evaluation.

    Raises:
        InputError: an unknown split or prior, k below 20 or above a way's `top`, a batch size below 1, a split without
            targets, a seed below 0, a sample larger than the split, a prior that the RUN has not trained, keep_history
            with another way to rank, or a helper's table of another content than that of the same name which the folder
            holds the evaluation with.
    """
    k = list_length(k, len(recommender.catalogue.item_ids))
    _check(batch_size, effect_targets, prior)
    if way is not None and way.facts.get("top", k) < k:
        raise InputError(f"--top {way.facts['top']}: must be at least -k {k}, so many of which are listed")
    folder = None if out is None else evaluation_folder(out, split, way, sample, seed)
    if folder is not None and way is not None:
        _refuse_another_table(folder, way)
    if keep_history and way is not None:
        raise InputError(f"keep_history: {way.name} leaves the history out; rank by log p to keep it")
    started = time.monotonic()
    positions = split_targets(dataset, split, sample, seed)
    cases = cases_of(recommender, dataset, positions)
    facts = _facts(recommender, dataset, split, cases) | {"k": k}
    if keep_history:
        facts |= {"keep_history": True}
    if sample is not None:
        facts |= {"sample": sample, "seed": seed}
    if way is not None:
        facts["way"] = {"name": way.name} | way.facts
    job = facts | {"prior": prior, "effect_targets": effect_targets}
    parts = Parts() if out is None or folder is None else Parts.of(out, folder, job)
    measured = cases.known(effect_targets if isinstance(recommender, Scorer) else 0)

    def advance(done: int) -> None:
        if progress is not None:
            progress(done, len(measured) + len(cases))

    effects = (
        effects_of(recommender, measured, prior, advance, parts)
        if isinstance(recommender, Scorer)
        else no_effects(prior)
    )
    answers = _ask(
        recommender, cases, k, batch_size, lambda done: advance(len(measured) + done), keep_history, way, parts
    )
    items, exact = answers["items"], answers["exact"]
    rank = _ranks(items, cases.targets)
    popular = rank_by_popularity(
        recommender.counts, [[]] * len(cases) if keep_history else cases.histories, cases.targets, k
    )
    names = np.array(recommender.catalogue.item_ids, dtype=object)
    facts |= {
        "seconds": round(time.monotonic() - started, 3),
        "exact_share": float(exact.mean()),
        "effect_targets": len(measured),
    }
    if "invented" in answers:
        facts["way"] |= {"written": answers["invented"].size, "invented": int(answers["invented"].sum())}
    ranks = _ranks_frame(cases, rank, items, answers["scores"], exact, names)
    table = evaluation_table(ranks, recommender.catalogue.item_ids, recommender.counts)
    result = Evaluation(
        metrics={name: table[0][name] for name in ALL_METRICS if name in table[0]},
        table=table,
        ranks=ranks,
        popular=_popular_frame(cases, popular.ranks, popular.items, names),
        effects=effects,
        facts=facts,
    )
    if folder is not None:
        result.save(folder)
        parts.drop()
    return result


def list_length(k: int, items: int) -> int:
    """Return how long lists of a catalogue are kept: none has more than all items.

    Raises:
        InputError: lists that are too short for the metrics.
    """
    least = max(CUTOFFS)
    if k < least:
        raise InputError(f"-k {k}: must be at least {least}, which is as far as the metrics look")
    return min(k, max(least, items))


def _check(batch_size: int, effect_targets: int, prior: str) -> None:
    if prior not in PRIORS:
        raise InputError(f"prior {prior!r} is not known; choose one of {', '.join(PRIORS)}")
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: must be at least 1")
    if effect_targets < 0:
        raise InputError(f"--effect-targets {effect_targets}: must be at least 0")


def _refuse_another_table(folder: Path, way: Way) -> None:
    """Refuse to replace what was ranked with another helper's table of the same file name."""
    table, there = way.facts.get("file"), folder / "evaluation.json"
    if table is None or not there.is_file():
        return
    known = read_json(there).get("way", {}).get("file", table)
    if known["sha256"] != table["sha256"]:
        raise InputError(
            f"{folder}: holds the evaluation with another {table['name']} than that of --helper; rename the table, or "
            "remove the folder"
        )


def rank_targets(
    recommender: Ranker, dataset: Dataset, positions: NDArray[np.int64], batch_size: int = _BATCH
) -> NDArray[np.int64]:
    """Return the ranks of targets as `evaluate` finds them, int64 [n] from 1; 0: not among the first 20.

    Args:
        recommender: ready to search.
        dataset: the log.
        positions: int64 [n], the targets' event positions; n is at least 1.
        batch_size: histories searched at once.

    Raises:
        InputError: the recommender knows none of the targets.
    """
    cases = cases_of(recommender, dataset, positions)
    answers = _ask(recommender, cases, max(CUTOFFS), batch_size)
    return _ranks(answers["items"], cases.targets)


def _ask(
    recommender: Ranker,
    cases: Cases,
    k: int,
    batch_size: int,
    advance: Callable[[int], None] | None = None,
    keep_history: bool = False,
    way: Way | None = None,
    parts: Parts | None = None,
) -> Arrays:
    """Search all histories, batch by batch; a row a history of `items`, `scores`, `exact` and what else is found."""
    parts = parts or Parts()
    answers = []
    for start in range(0, len(cases), batch_size):
        stop = min(len(cases), start + batch_size)
        own = cases[np.arange(start, stop)]
        make = partial(_found, recommender, own, k, keep_history, way)
        answers.append(parts.get("lists", start, stop, make))
        if advance is not None:
            advance(stop)
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def _found(recommender: Ranker, cases: Cases, k: int, keep_history: bool, way: Way | None) -> Arrays:
    """Search some histories, whose targets are not left out."""
    histories: list[Items] = list(cases.histories)
    if way is not None:
        found = way.rank(cases, k)
    elif keep_history:
        found = recommender.search(histories, k, keep_history=True)  # type: ignore[call-arg]  # a Recommender
    else:
        found = recommender.search(histories, k, keep=cases.targets.tolist())
    arrays = {"items": found.items, "scores": found.scores, "exact": found.exact}
    return arrays | ({"invented": found.invented} if isinstance(found, UngroundedResult) else {})


def _ranks(items: NDArray[np.integer], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each target's place in its list, from 1; 0 where it is not in the list."""
    found = (items == targets[:, None]) & (targets[:, None] >= 0)
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0)


def _facts(recommender: Ranker, dataset: Dataset, split: str, cases: Cases) -> dict[str, Any]:
    # As `artefacts.write_json` writes it: this is the SHA-256 of a loaded dataset's manifest.json, which a RUN names.
    manifest = (json.dumps(dataset.manifest, indent=2, ensure_ascii=False, default=str) + "\n").encode()
    kept = sum(history.size for history in cases.histories)
    return {
        "model": recommender.run_name,
        "split": split,
        "dataset": {
            "sha256": hashlib.sha256(manifest).hexdigest(),
            "users": len(dataset.users),
            "items": len(dataset.items),
            "events": len(dataset.events),
        }
        | {key: dataset.manifest[key] for key in ("name", "source", "split") if key in dataset.manifest},
        "catalogue_items": len(recommender.catalogue.item_ids),
        "users": len(set(cases.users)),
        "targets": len(cases),
        "unknown_history_items": int(cases.history_lengths.sum()) - kept,
        "unknown_targets": int((cases.targets < 0).sum()),
    }


def _ranks_frame(
    cases: Cases,
    rank: NDArray[np.int64],
    items: NDArray[np.integer],
    scores: NDArray[np.floating],
    exact: NDArray[np.bool_],
    names: NDArray[np.object_],
) -> pl.DataFrame:
    filled = (items >= 0).sum(axis=1)
    columns = {
        "user": cases.users,
        "target": cases.target_ids,
        "history_length": cases.history_lengths,
        "rank": _nullable(rank),
        "items": _names(names, items),
        "scores": [row[:count].tolist() for row, count in zip(scores, filled, strict=True)],
        "exact": exact,
        "history": [names[history[-SHOWN_HISTORY:]].tolist() for history in cases.histories],
    }
    return pl.DataFrame(columns, schema=RANKS_SCHEMA)


def _popular_frame(
    cases: Cases, rank: NDArray[np.int64], items: NDArray[np.integer], names: NDArray[np.object_]
) -> pl.DataFrame:
    columns = {
        "user": cases.users,
        "target": cases.target_ids,
        "rank": _nullable(rank),
        "items": _names(names, items),
    }
    return pl.DataFrame(columns, schema=POPULAR_SCHEMA)


def _nullable(rank: NDArray[np.int64]) -> pl.Series:
    return pl.select(pl.when(pl.Series(rank) > 0).then(pl.Series(rank))).to_series()


def _names(names: NDArray[np.object_], items: NDArray[np.integer]) -> list[list[str]]:
    """Return the ids of each list; padding is at the end of a row and falls away."""
    return [names[row[row >= 0]].tolist() for row in items]


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write in one step: the file is either the old one or the whole new one."""
    staging = path.with_name(f".{path.name}.partial")
    frame.write_parquet(staging)
    staging.replace(path)
