"""Rank the whole catalogue for every held-out target of a split and write what came out into the RUN."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cftrec.artefacts import write_json
from cftrec.data.dataset import SPLITS, Dataset
from cftrec.errors import InputError
from cftrec.evaluation.effects import Schema, by_position
from cftrec.evaluation.metrics import CUTOFFS, means, per_target
from cftrec.evaluation.popularity import rank_by_popularity

_BATCH = 64  # histories searched at once
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

Items = NDArray[np.integer]
Progress = Callable[[int, int], None]


class Found(Protocol):
    """What a search returns: int [B, k] items padded with -1, float [B, k] scores, bool [B] exact."""

    @property
    def items(self) -> NDArray[np.integer]: ...  # noqa: D102
    @property
    def scores(self) -> NDArray[np.floating]: ...  # noqa: D102
    @property
    def exact(self) -> NDArray[np.bool_]: ...  # noqa: D102


class ItemIds(Protocol):
    """The part of a catalogue that an evaluation reads."""

    @property
    def item_ids(self) -> list[str]: ...  # noqa: D102


class Ranker(Protocol):
    """What is evaluated: a `Recommender`, which is also a `Scorer`, a baseline, or lists that stand already."""

    @property
    def catalogue(self) -> ItemIds: ...  # noqa: D102
    @property
    def counts(self) -> NDArray[np.integer]: ...  # noqa: D102
    @property
    def run_name(self) -> str: ...  # noqa: D102

    def search(self, histories: list[Items], k: int, keep: list[int] | None = None) -> Found:
        """Return the best k items for each history, its items left out except keep[b] (-1: none kept)."""


@runtime_checkable
class Scorer(Ranker, Protocol):
    """A ranker that knows log p of its targets, too; of others, which only rank, no log p by position is measured."""

    def target_log_probs(
        self, histories: list[Items], targets: list[int]
    ) -> tuple[Sequence[NDArray[np.floating]], Sequence[NDArray[np.floating]]]:
        """Return each target's token log p with its history and without any."""


@dataclass(frozen=True)
class Evaluation:
    """One split's result.

    Attributes:
        metrics: flat means, {"HR@10": ...}.
        ranks: one row a target, see `RANKS_SCHEMA`; `history_length` counts all events before the target, `history`
            holds the newest of them that the RUN knows.
        popular: the popularity baseline on the same targets; its `rank` is exact in the whole catalogue.
        positions: log p by token position, see `effects.by_position`.
        facts: what was evaluated: split, k, dataset, users, targets, seconds, exact_share, model, ...
    """

    metrics: dict[str, float]
    ranks: pl.DataFrame
    popular: pl.DataFrame
    positions: pl.DataFrame
    facts: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write metrics.json, the Parquet tables and, last, evaluation.json, which says that the others are whole."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").unlink(missing_ok=True)
        write_json(folder / "metrics.json", self.metrics)
        for name in ("ranks", "popular", "positions"):
            _write_parquet(folder / f"{name}.parquet", getattr(self, name))
        write_json(folder / "evaluation.json", self.facts)


@dataclass(frozen=True)
class _Cases:
    """A split's targets in the RUN's own item indices."""

    users: list[str]
    target_ids: list[str]
    targets: NDArray[np.int64]  # -1: the RUN does not know the item
    histories: list[NDArray[np.int64]]  # unknown items dropped
    history_lengths: NDArray[np.int64]  # of the log, nothing dropped


@dataclass
class _Answers:
    """What the ranker said, batch after batch."""

    items: list[NDArray[np.integer]] = field(default_factory=list)
    scores: list[NDArray[np.floating]] = field(default_factory=list)
    exact: list[NDArray[np.bool_]] = field(default_factory=list)
    with_history: list[NDArray[np.floating]] = field(default_factory=list)
    without_history: list[NDArray[np.floating]] = field(default_factory=list)


def evaluate(
    recommender: Ranker,
    dataset: Dataset,
    split: str = "test",
    k: int = 20,
    out: Path | None = None,
    progress: Progress | None = None,
    *,
    batch_size: int = _BATCH,
    effect_targets: int = 2_000,
) -> Evaluation:
    """Rank the whole catalogue for every target of a split.

    The dataset's items are found in the RUN's catalogue by item id. History items that the RUN does not know are
    dropped and counted; a target that it does not know is counted and is a miss.

    Args:
        recommender: the RUN, ready to search; a `Scorer` also has its log p measured.
        dataset: the log; its split decides the targets.
        split: "train", "validation" or "test".
        k: length of the lists, at least 20, which is as far as the metrics look.
        out: the RUN's folder: the test split's files are written into it, those of another split into out / split.
            None writes nothing.
        progress: called with (targets done, targets in all) after each batch.
        batch_size: histories searched at once.
        effect_targets: targets whose log p by token position is measured, evenly spaced over the split.

    Returns:
        Metrics, ranks, the popularity baseline, log p by position and the facts of the evaluation.

    Raises:
        InputError: an unknown split, k below 20, a batch size below 1, or a split without targets.
    """
    _check(split, k, batch_size, effect_targets)
    started = time.monotonic()
    positions = dataset.targets(split)
    if not len(positions):
        raise InputError(f"the dataset has no target in its {split} split; evaluate another split or prepare it again")
    cases = _cases(recommender, dataset, positions)
    answers = _ask(recommender, cases, k, batch_size, effect_targets, progress)
    items, exact = np.concatenate(answers.items), np.concatenate(answers.exact)
    rank = _ranks(items, cases.targets)
    popular = rank_by_popularity(recommender.counts, cases.histories, cases.targets, k)
    names = np.array(recommender.catalogue.item_ids, dtype=object)
    facts = _facts(recommender, dataset, split, cases) | {
        "k": k,
        "seconds": round(time.monotonic() - started, 3),
        "exact_share": float(exact.mean()),
        "effect_targets": len(answers.with_history),
    }
    result = Evaluation(
        metrics=means(per_target(rank)),
        ranks=_ranks_frame(cases, rank, items, np.concatenate(answers.scores), exact, names),
        popular=_popular_frame(cases, popular.ranks, popular.items, names),
        positions=by_position(answers.with_history, answers.without_history),
        facts=facts,
    )
    if out is not None:
        result.save(out if split == "test" else out / split)
    return result


def _check(split: str, k: int, batch_size: int, effect_targets: int) -> None:
    if split not in SPLITS:
        raise InputError(f"--split {split}: unknown split; choose one of {', '.join(SPLITS)}")
    if k < max(CUTOFFS):
        raise InputError(f"-k {k}: must be at least {max(CUTOFFS)}, which is as far as the metrics look")
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: must be at least 1")
    if effect_targets < 0:
        raise InputError(f"effect_targets {effect_targets}: must be 0 or more")


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
    cases = _cases(recommender, dataset, positions)
    answers = _ask(recommender, cases, max(CUTOFFS), batch_size, 0, None)
    return _ranks(np.concatenate(answers.items), cases.targets)


def _cases(recommender: Ranker, dataset: Dataset, positions: NDArray[np.int64]) -> _Cases:
    item_ids = dataset.items["item_id"].to_list()
    known = {item_id: index for index, item_id in enumerate(recommender.catalogue.item_ids)}
    to_run = np.array([known.get(item_id, -1) for item_id in item_ids], dtype=np.int64)
    mapped = [to_run[dataset.history(int(position))] for position in positions]
    target_items = dataset.events[positions]
    if (to_run[target_items] < 0).all():
        raise InputError(
            "the RUN knows none of the dataset's targets by item id; evaluate it on the data it is made for"
        )
    return _Cases(
        users=dataset.users.gather(dataset.user_of(positions)).cast(pl.String).to_list(),
        target_ids=[item_ids[item] for item in target_items],
        targets=to_run[target_items],
        histories=[history[history >= 0] for history in mapped],
        history_lengths=np.array([history.size for history in mapped], dtype=np.int64),
    )


def _ask(
    recommender: Ranker, cases: _Cases, k: int, batch_size: int, effect_targets: int, progress: Progress | None
) -> _Answers:
    """Search all histories and score a part of the targets, batch by batch."""
    answers = _Answers()
    total = cases.targets.size
    measured = np.zeros(total, dtype=bool)
    measured[np.linspace(0, total - 1, min(total, effect_targets)).round().astype(np.int64)] = True
    measured &= cases.targets >= 0
    for start in range(0, total, batch_size):
        stop = min(total, start + batch_size)
        histories: list[Items] = list(cases.histories[start:stop])
        found = recommender.search(histories, k, keep=cases.targets[start:stop].tolist())
        answers.items.append(found.items)
        answers.scores.append(found.scores)
        answers.exact.append(found.exact)
        chosen = np.flatnonzero(measured[start:stop])
        if chosen.size and isinstance(recommender, Scorer):
            factual, counterfactual = recommender.target_log_probs(
                [histories[index] for index in chosen], cases.targets[start:stop][chosen].tolist()
            )
            answers.with_history.extend(factual)
            answers.without_history.extend(counterfactual)
        if progress is not None:
            progress(stop, total)
    return answers


def _ranks(items: NDArray[np.integer], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each target's place in its list, from 1; 0 where it is not in the list."""
    found = (items == targets[:, None]) & (targets[:, None] >= 0)
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0)


def _facts(recommender: Ranker, dataset: Dataset, split: str, cases: _Cases) -> dict[str, Any]:
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
        "targets": int(cases.targets.size),
        "unknown_history_items": int(cases.history_lengths.sum()) - kept,
        "unknown_targets": int((cases.targets < 0).sum()),
    }


def _ranks_frame(
    cases: _Cases,
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
    cases: _Cases, rank: NDArray[np.int64], items: NDArray[np.integer], names: NDArray[np.object_]
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


def _write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write in one step: the file is either the old one or the whole new one."""
    staging = path.with_name(f".{path.name}.partial")
    frame.write_parquet(staging)
    staging.replace(path)
