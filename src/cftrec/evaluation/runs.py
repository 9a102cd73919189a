"""Read RUNs that have been evaluated, and check that they can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cftrec.artefacts import MANIFEST, part_of, read_json, read_manifest
from cftrec.errors import InputError
from cftrec.evaluation.effects import Schema
from cftrec.evaluation.evaluate import POPULAR_SCHEMA, RANKS_SCHEMA

_KEY = ["user", "target", "history_length"]


@dataclass(frozen=True)
class EvaluatedRun:
    """One evaluated RUN.

    Attributes:
        path: the evaluation's folder.
        run_name: of the RUN's manifest.
        part: the evaluation's folder in the RUN, such as "gamma-0.5-counts"; "" for the RUN's own evaluation.
        manifest: the RUN's manifest (config, training facts, package versions).
        evaluation: evaluation.json.
        ranks: one row a target, in the order of (user, target, history length).
        popular: the popularity baseline on the same rows.
        effects: effects.json, the history's effect (`effect_summary.summarise`).
        item_ids: the catalogue, in item order.
        titles: item id -> title (untrusted text).
        counts: int64 [I] training events of each item.
        given: the name that a comparison was told to call it or its method by; None: its own.
    """

    path: Path
    run_name: str
    part: str
    manifest: dict[str, Any]
    evaluation: dict[str, Any]
    ranks: pl.DataFrame
    popular: pl.DataFrame
    effects: dict[str, Any]
    item_ids: list[str]
    titles: dict[str, str]
    counts: NDArray[np.int64]
    given: str | None = None

    @property
    def run(self) -> Path:
        """The RUN's folder."""
        return _owner(self.path).resolve()

    @property
    def name(self) -> str:
        """What it is called in a comparison."""
        return f"{self.run_name}/{self.part}" if self.part else self.run_name

    @property
    def label(self) -> str:
        """What tells it from the other RUNs of a comparison: its row's name, and its own."""
        return self.name if self.given in (None, self.name) else f"{self.given} ({self.name})"


@dataclass(frozen=True)
class Model:
    """One row of a comparison: answers to the common targets of a RUN, a method's first, or the popularity baseline."""

    name: str
    ranks: NDArray[np.int64]  # [n], 0 = not in the list
    items: list[list[str]]  # [n] recommended item ids, best first
    effects: dict[str, Any] | None  # the history's effect; None for popularity


def read_run(path: Path) -> EvaluatedRun:
    """Read an evaluated RUN, or the predictions of `cftrec baseline` or `evaluate --predictions`.

    Args:
        path: a RUN, whose evaluation of the test split is read; or the folder in a RUN that an evaluation of another
            split or in another way was written to.

    Raises:
        InputError: neither a RUN nor predictions, not evaluated, or a file of the evaluation is missing or broken.
    """
    owner = _owner(path)
    manifest = read_manifest(owner, "run", "predictions")
    if not (path / "evaluation.json").is_file():
        what = "no evaluation" if path == owner else "no such evaluation"
        raise InputError(f"{path}: this RUN has {what}; {_again(path).removesuffix(' again')} first")
    ranks = _read_table(path, "ranks", RANKS_SCHEMA)
    popular = _read_table(path, "popular", POPULAR_SCHEMA)
    if not ranks.select("user", "target").equals(popular.select("user", "target")):
        raise InputError(f"{path}: ranks.parquet and popular.parquet hold different targets; {_again(path)}")
    if ranks.is_empty():
        raise InputError(f"{path}: its evaluation holds no target; {_again(path)}")
    order = ranks.select(pl.arg_sort_by(_KEY, maintain_order=True)).to_series()
    catalogue = _read_catalogue(part_of(owner, manifest, "catalogue") / "catalogue.arrow")
    evaluation = read_json(path / "evaluation.json")
    catalogue = catalogue.head(evaluation.get("catalogue_items", len(catalogue)))  # items added since come after them
    return EvaluatedRun(
        path=path,
        run_name=str(manifest.get("name", owner.name)),
        part=_part(path, owner),
        manifest=manifest,
        evaluation=evaluation,
        ranks=ranks[order],
        popular=popular[order],
        effects=_read_effects(path),
        item_ids=catalogue["item_id"].to_list(),
        titles=dict(zip(catalogue["item_id"], catalogue["title"], strict=True)),
        counts=catalogue["count"].to_numpy(),
    )


def _owner(path: Path) -> Path:
    """Return the RUN that an evaluation's folder lies in (RUN/SPLIT/WAY at most), or the folder itself."""
    inside = () if (path / MANIFEST).is_file() else path.absolute().parents[:2]
    return next((parent for parent in inside if (parent / MANIFEST).is_file()), path)


def _part(path: Path, owner: Path) -> str:
    return "" if path == owner else path.absolute().relative_to(owner).as_posix()


def read_runs(paths: Sequence[Path]) -> list[EvaluatedRun]:
    """Read several evaluated RUNs and check that they answer the same question.

    Raises:
        InputError: no RUN; one that cannot be read (`read_run`); other users or targets.
    """
    if not paths:
        raise InputError("compare needs at least one RUN; name the folders that `cftrec train` made")
    runs = [read_run(path) for path in paths]
    for run in runs:
        _check_same_targets(runs[0], run)
    return runs


def notes(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Return what a reader of a comparison must know: sentences about RUNs that were not evaluated quite alike."""
    first = runs[0]
    told = []
    for run in runs:
        if run.item_ids != first.item_ids:
            told.append(
                f"{run.label} ranks {len(run.item_ids):,} items and {first.label} {len(first.item_ids):,}, "
                "not the same catalogue: their ranks are not strictly comparable."
            )
        elif not np.array_equal(run.counts, first.counts):
            told.append(
                f"{run.label} was trained on other events than {first.label}; popularity is that of {first.label}."
            )
        if (
            len(
                {run.manifest.get("dataset", {}).get("sha256"), run.evaluation.get("dataset", {}).get("sha256")}
                - {None}
            )
            > 1
        ):
            told.append(f"{run.label} was trained on another data set than it is evaluated on.")
        if unknown := run.evaluation.get("unknown_targets", 0):
            told.append(f"{run.label} does not know {unknown:,} of the targets; they count as misses.")
        if dropped := run.evaluation.get("unknown_history_items", 0):
            told.append(f"{run.label} does not know {dropped:,} events of the histories; they were left out.")
        told += _proof(run)
        told += [f"{run.label}: {note}" for note in run.evaluation.get("notes", [])]
    return told


def _proof(run: EvaluatedRun) -> list[str]:
    """Say what is proved of a RUN's lists, where it is not all of them."""
    share, way = run.evaluation.get("exact_share", 1.0), run.evaluation.get("way", {})
    if share == 1:
        return []
    if "beams" in way:
        what = "are the titles nearest to what the model wrote freely; nothing is proved of them."
        return [f"The lists of {run.label} {what}"]
    why = "were cut by the beam" if "beam" in way else "hit the search budget"
    return [f"{share:.1%} of the lists of {run.label} are certified exact; the others {why}."]


def _check_same_targets(first: EvaluatedRun, run: EvaluatedRun) -> None:
    if run.evaluation.get("keep_history", False) != first.evaluation.get("keep_history", False):
        raise InputError(
            f"{run.path}: one of it and {first.path} was evaluated with --keep-history and the other without; run "
            "`cftrec evaluate` on both alike, without it beside a baseline, which always leaves the history out"
        )
    mine, other = run.ranks.select(_KEY), first.ranks.select(_KEY)
    if mine.equals(other):
        return
    strange = mine.join(other, on=_KEY, how="anti").head(1)
    if strange.is_empty():
        strange = other.join(mine, on=_KEY, how="anti").head(1)
    example = f" (for example user {strange['user'][0]})" if len(strange) else ""
    raise InputError(
        f"{run.path}: evaluated on other users or targets than {first.path}{example}; "
        "run `cftrec evaluate` on both with the same DATASET"
    )


def _read_table(path: Path, name: str, schema: Schema) -> pl.DataFrame:
    file = path / f"{name}.parquet"
    try:
        return pl.read_parquet(file, glob=False).select(pl.col(column).cast(kind) for column, kind in schema.items())
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{file}: missing or not readable ({_line(error)}); {_again(path)}") from error


def _read_effects(path: Path) -> dict[str, Any]:
    if not (path / "effects.json").is_file():
        raise InputError(f"{path / 'effects.json'}: missing; {_again(path)}")
    return read_json(path / "effects.json")


def _read_catalogue(file: Path) -> pl.DataFrame:
    try:
        table = pl.read_ipc(file)
        return table.select(pl.col("item_id", "title").cast(pl.String), pl.col("count").cast(pl.Int64))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{file}: missing or not readable ({_line(error)}); train the RUN again") from error


def _again(path: Path) -> str:
    owner = _owner(path)
    how = f", with the options that write {_part(path, owner)}," if path != owner else ""
    return f"run `cftrec evaluate {owner} DATASET`{how} again"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
