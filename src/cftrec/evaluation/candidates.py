"""Rank each target within a list of candidates, as systems that answer a question with options are measured.

LLaRA (arXiv 2312.02445) and works after it draw 20 candidates, the target among them, and report HR@1. That is a far
easier question than the whole catalogue, so the result has files of its own: candidates.json, candidate_ranks.parquet.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cftrec.artefacts import write_json
from cftrec.data.dataset import Dataset
from cftrec.data.sources.sheet import read_table
from cftrec.errors import InputError
from cftrec.evaluation.cases import Cases, cases_of, run_index, split_targets
from cftrec.evaluation.effects import Schema
from cftrec.evaluation.evaluate import evaluation_folder, write_parquet
from cftrec.evaluation.parts import Arrays, Parts
from cftrec.evaluation.ranker import Scorer
from cftrec.evaluation.significance import DRAWS, LEVEL, intervals, resampled_means, user_codes
from cftrec.recommender import BATCH

Ints = NDArray[np.int64]

CANDIDATES_SCHEMA: Schema = {
    "user": pl.String,
    "target": pl.String,
    "history_length": pl.Int64,
    "rank": pl.Int32,
    "items": pl.List(pl.String),
    "scores": pl.List(pl.Float64),
}
_BATCH = 2 * BATCH  # histories scored at once


@dataclass(frozen=True)
class CandidateRanks:
    """Targets ranked within their candidates.

    Attributes:
        ranks: one row a target: `rank` from 1, null where the target is no candidate; `items`, the candidates, best
            first, and their `scores`, log p(title | history).
        summary: what candidates.json holds: HR@1 and its 95 % interval by bootstrap over users (HR@1_ci, None for
            one user), `chance` (HR@1 of a random answer), how many candidates there are (least, mean, most),
            where they come from, and what was left out.
    """

    ranks: pl.DataFrame
    summary: dict[str, Any]


def rank_candidates(
    recommender: Scorer,
    dataset: Dataset,
    candidates: int | Path,
    split: str = "test",
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    sample: int | None = None,
    seed: int = 0,
) -> CandidateRanks:
    """Rank every target of a split within its candidates by exact log p; equal scores stand in item order.

    What is written and was interrupted goes on with the first batch that is missing.

    Args:
        recommender: the RUN.
        dataset: the log.
        candidates: how many, the target among them, the others drawn at random from the dataset's items that the user
            has no event of (all of these where there are fewer); or a table with columns `user` and `item`, ids (CSV,
            TSV, Parquet or JSON lines), whose items serve all targets of their user. A target that the table does not
            name for its user is a miss.
        split: "train", "validation" or "test".
        out: the RUN's folder, where the files go into `evaluate.evaluation_folder`. None writes nothing.
        progress: called with (targets done, targets in all).
        sample: so many random targets of the split only; None: all.
        seed: of the sample and of the candidates; a target's candidates do not depend on which others are ranked.

    Raises:
        InputError: an unknown split, fewer than 2 candidates, a table that cannot be read or lacks a user of the split.
    """
    cases = cases_of(recommender, dataset, split_targets(dataset, split, sample, seed))
    facts: dict[str, Any] = {"model": recommender.run_name, "split": split}
    facts |= {} if sample is None else {"sample": sample, "seed": seed}
    if isinstance(candidates, int):
        lists = _drawn(recommender, dataset, cases, candidates, seed)
        facts |= {"drawn": candidates, "seed": seed}
    else:
        lists, told = _given(recommender, cases, candidates)
        facts |= told
    if out is None:
        return _ranked(recommender, cases, lists, facts, progress, Parts())
    folder = evaluation_folder(out, split, None, sample, seed)
    parts = Parts.of(out, folder, facts | {"asked": _digest([*cases.histories, *lists])}, "candidates")
    result = _ranked(recommender, cases, lists, facts, progress, parts)
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(folder / "candidate_ranks.parquet", result.ranks)
    write_json(folder / "candidates.json", result.summary)
    parts.drop()
    return result


def _digest(lists: Sequence[Ints]) -> str:
    """Return what stands for lists of items."""
    digest = hashlib.sha256(np.array([len(items) for items in lists]).tobytes())
    digest.update(np.concatenate(lists).astype(np.int64).tobytes())
    return digest.hexdigest()


def _drawn(recommender: Scorer, dataset: Dataset, cases: Cases, count: int, seed: int) -> list[Ints]:
    """Draw each target's candidates, the target first; a target that the RUN does not know has none."""
    if count < 2:
        raise InputError(f"--candidates {count}: must be at least 2, the target and another item")
    to_run = run_index(recommender, dataset.items["item_id"].to_list())
    lists = []
    for position, target in zip(cases.positions, cases.targets, strict=True):
        user = int(dataset.user_of(position))
        free = to_run >= 0
        free[dataset.events[dataset.offsets[user] : dataset.offsets[user + 1]]] = False
        unseen = to_run[free]
        others = np.random.default_rng([seed, int(position)]).choice(unseen, min(count - 1, len(unseen)), replace=False)
        lists.append(np.concatenate(([target], others)) if target >= 0 else np.empty(0, dtype=np.int64))
    return lists


def _given(recommender: Scorer, cases: Cases, file: Path) -> tuple[list[Ints], dict[str, Any]]:
    """Read each target's candidates from a table, and what is to be told of it."""
    sheet = read_table(file)
    users, items = sheet.ids("user"), sheet.ids("item")
    index = run_index(recommender, items.to_list())
    known = pl.DataFrame({"user": users, "item": index}).filter(pl.col("item") >= 0)
    by_user = {user: np.unique(group["item"].to_numpy()) for (user,), group in known.group_by("user")}
    named, nothing = set(users.to_list()), np.empty(0, dtype=np.int64)
    missing = next((user for user in cases.users if user not in named), None)
    if missing is not None:
        raise InputError(f"{file}: no candidate of user {missing!r}, who has a target; give every such user some")
    facts = {"file": sheet.facts, "unknown_candidates": int((index < 0).sum())}
    return [by_user.get(user, nothing) for user in cases.users], facts


def _ranked(
    recommender: Scorer,
    cases: Cases,
    lists: list[Ints],
    facts: dict[str, Any],
    progress: Callable[[int, int], None] | None,
    parts: Parts,
) -> CandidateRanks:
    names = np.array(recommender.catalogue.item_ids, dtype=object)
    ranks, items, scores = [], [], []
    for begin in range(0, len(cases), _BATCH):
        end = min(begin + _BATCH, len(cases))
        batch = slice(begin, end)
        make = partial(_scores, recommender, cases.histories[batch], lists[batch])
        found = parts.get("scores", begin, end, make)["scores"]
        ends = np.cumsum([len(listed) for listed in lists[batch]])
        for target, listed, score in zip(cases.targets[batch], lists[batch], np.split(found, ends[:-1]), strict=True):
            order = np.lexsort((listed, -score))
            place = np.flatnonzero(listed[order] == target)
            ranks.append(1 + int(place[0]) if len(place) else None)
            items.append(names[listed[order]].tolist())
            scores.append(score[order])
        if progress is not None:
            progress(end, len(cases))
    columns = {
        "user": cases.users,
        "target": cases.target_ids,
        "history_length": cases.history_lengths,
        "rank": ranks,
        "items": items,
        "scores": scores,
    }
    table = pl.DataFrame(columns, schema=CANDIDATES_SCHEMA)
    return CandidateRanks(table, _summary(table, facts))


def _scores(recommender: Scorer, histories: Sequence[Ints], lists: Sequence[Ints]) -> Arrays:
    """Return log p of all lists' items, one list's after another's."""
    runs = recommender.log_probs(histories, lists)
    scores = [np.add.reduceat(run.values, run.starts) for run in runs if len(run.lengths)]
    return {"scores": np.concatenate([np.empty(0), *scores])}


def _summary(table: pl.DataFrame, facts: dict[str, Any]) -> dict[str, Any]:
    hit = (table["rank"] == 1).fill_null(False).to_numpy().astype(np.float64)
    users, sizes = user_codes(table["user"].to_numpy()), table["items"].list.len().to_numpy()
    ci = intervals(resampled_means(hit[:, None], users))[0].tolist()
    listed = table["rank"].is_not_null().to_numpy()
    return {
        "HR@1": float(hit.mean()),
        "HR@1_ci": ci if users.max() else None,
        "chance": float(np.where(listed, 1 / np.maximum(sizes, 1), 0).mean()),
        "users": int(users.max()) + 1,
        "targets": table.height,
        "targets_not_among_candidates": int((~listed).sum()),
        "candidates": {"least": int(sizes.min()), "mean": float(sizes.mean()), "most": int(sizes.max())},
        "bootstrap": {"draws": DRAWS, "seed": 0, "level": LEVEL, "resampled": "users"},
    } | facts
