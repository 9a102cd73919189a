"""Ways to rank for an evaluation other than exactly by log p: by effect, by beam, with a helper's scores, or freely."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cftrec.artefacts import MANIFEST
from cftrec.data.dataset import Dataset
from cftrec.data.sources.sheet import Sheet, read_table
from cftrec.decoding.guided import TOP
from cftrec.decoding.ungrounded import BEAMS
from cftrec.errors import InputError
from cftrec.evaluation.cases import Cases, run_index
from cftrec.evaluation.given_lists import LENGTH, row_a_rank, scores, whole
from cftrec.evaluation.ranker import Found
from cftrec.recommender import Recommender

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Way:
    """A way to rank.

    Attributes:
        name: of the folder in the RUN that its files go into; says every option of the order but those at defaults.
        facts: what evaluation.json says of it.
        rank: returns the best k items of some targets' histories, which are left out, but for the targets.
    """

    name: str
    facts: dict[str, Any]
    rank: Callable[[Cases, int], Found]


def by_effect(recommender: Recommender, gamma: float, prior: str, top: int) -> Way:
    """Order the `top` likeliest items by log p + gamma x (log p - log prior); see `Recommender.guided`."""
    if not 0 < gamma < math.inf:
        raise InputError(f"--gamma {gamma}: must be a number above 0")
    if top < 1:
        raise InputError(f"--top {top}: must be at least 1 title")

    def rank(cases: Cases, k: int) -> Found:
        keep = cases.targets.tolist()
        return recommender.guided(cases.histories, k, gamma=gamma, prior=prior, top=top, keep=keep)

    name = f"gamma-{_short(gamma)}-{prior}" + ("" if top == TOP else f"-top-{top}")
    return Way(name, {"gamma": gamma, "prior": prior, "top": top}, rank)


def by_beam(recommender: Recommender, width: int) -> Way:
    """Go on with the `width` likeliest beginnings of each length alone, as beam search does."""
    if width < 1:
        raise InputError(f"--beam {width}: must be at least 1 beginning")

    def rank(cases: Cases, k: int) -> Found:
        return recommender.search(cases.histories, k, keep=cases.targets.tolist(), beam=width)

    return Way(f"beam-{width}", {"beam": width}, rank)


def ungrounded(recommender: Recommender, beams: int, grounded: int | None) -> Way:
    """Let the model write titles freely and take the nearest ones of the catalogue."""
    turns = beams if grounded is None else grounded
    if beams < 1:
        raise InputError(f"--beams {beams}: must be at least 1 title")
    if not 1 <= turns <= beams:
        raise InputError(f"--grounded {turns}: must be from 1 to {beams}, the --beams")
    facts = {"beams": beams, "grounded": turns}
    name = (
        "ungrounded" + ("" if beams == BEAMS else f"-beams-{beams}") + ("" if turns == beams else f"-grounded-{turns}")
    )

    def rank(cases: Cases, k: int) -> Found:
        return recommender.ungrounded(cases.histories, k, keep=cases.targets.tolist(), beams=beams, grounded=grounded)

    return Way(name, facts, rank)


def with_helper(
    recommender: Recommender, file: Path, weight: float, scale: float, dataset: Dataset, positions: Ints
) -> Way:
    """Mix a helper's scores in; see `decoding.helper`.

    Args:
        recommender: the RUN.
        file: a table with columns `user`, `item` (ids) and `score` (a finite number, larger is better), in any order;
            or the ranks.parquet of an evaluation or a baseline, whose lists are read as such a table. With a column
            `history_length`, the number of the user's events before the target, scores are for that target, otherwise
            for all of the user's. An item that it does not name for a target has the least score it names for it; one
            that it names twice has its last. Items that the RUN does not know are counted and left out.
        weight: of the helper, from 0 to 1.
        scale: factor of the scores, above 0 and finite, that gives their softmax its sharpness; 1 for logits.
        dataset: the log.
        positions: int64 [n], event positions of the targets, all of which the table must name items for.

    Raises:
        InputError: a weight or scale out of range, scores that the scale makes infinite, or a table that cannot be
            read, or names no item that the RUN knows for a target.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"helper_weight {weight}: must be from 0 (the model alone) to 1 (the helper alone)")
    if not 0 < scale < math.inf:
        raise InputError(f"helper_scale {scale}: must be above 0 and finite; 1 takes the scores as they are")
    given = read_table(file)
    sheet = row_a_rank(given)
    if "items" in given.frame.columns and "score" not in sheet.frame.columns:
        raise InputError(f"{file}: its lists have no scores, or not all of them do; make them with scores")
    named = _helper_table(sheet, recommender)
    known = named.filter(pl.col("item") >= 0)
    key = [name for name in ("user", LENGTH) if name in known.columns]
    scored = {
        of: (rows["item"].to_numpy(), rows["score"].to_numpy()) for of, rows in known.group_by(key, maintain_order=True)
    }

    def of(user: str, length: int) -> tuple[object, ...]:
        return (user, length) if LENGTH in key else (user,)

    users = dataset.user_of(positions)
    asked = zip(dataset.users.gather(users).cast(pl.String), positions - dataset.offsets[users], strict=True)
    missing = next((user for user, length in asked if of(user, int(length)) not in scored), None)
    if missing is not None:
        at = f" with that {LENGTH}" if LENGTH in key else ""
        raise InputError(f"{file}: no known item of user {missing!r}, who has a target{at}; give every target some")

    with np.errstate(all="ignore"):
        spread = np.ptp(scale * known["score"].to_numpy())
    if not np.isfinite(spread):
        raise InputError(f"helper_scale {scale}: the scores of {file} times it overflow; choose a smaller one")

    def rank(cases: Cases, k: int) -> Found:
        helper = np.empty((len(cases), len(recommender.catalogue)))
        for row, (user, length) in enumerate(zip(cases.users, cases.history_lengths.tolist(), strict=True)):
            index, given = scored[of(user, length)]
            helper[row] = given.min()
            helper[row, index] = given
        keep = cases.targets.tolist()
        return recommender.search(cases.histories, k, keep=keep, helper=scale * helper, helper_weight=weight)

    facts = {"file": sheet.facts, "weight": weight, "scale": scale, "unknown_items": named.height - known.height}
    name = _lists_name(file.resolve()) if file.name == "ranks.parquet" else file.stem
    scaled = "" if scale == 1 else f"x{_short(scale)}"
    return Way(f"helper-{_short(weight)}{scaled}-{name}", facts, rank)


def _short(number: float) -> str:
    """Write a number in a folder's name: six digits where these are all of it."""
    return short if float(short := f"{number:g}") == number else repr(number)


def _lists_name(file: Path) -> str:
    """Name lists by their folder, and by the RUN that this lies in, if it does: RUN, RUN-validation, RUN-beam-10."""
    for folder in list(file.parents)[:3]:
        if (folder / MANIFEST).exists():
            return "-".join([folder.name, *file.parent.relative_to(folder).parts])
    return file.parent.name


def _helper_table(sheet: Sheet, recommender: Recommender) -> pl.DataFrame:
    """Return user (str), item (the RUN's index, -1: unknown), score (float64) and history_length if it is given."""
    users, items = sheet.ids("user"), run_index(recommender, sheet.ids("item").to_list())
    table = pl.DataFrame({"user": users, "item": items, "score": scores(sheet)})
    return table.with_columns(whole(sheet, LENGTH, least=0)) if LENGTH in sheet.frame.columns else table
