"""Lists that any system made, evaluated and kept as a folder of predictions.

Such a folder holds what `evaluate` writes into a RUN, so that `compare` takes RUNs and predictions in any mix.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from cftrec.artefacts import MANIFEST, new_folder, refuse_if_taken, refuse_unspellable, sha256
from cftrec.data.dataset import Dataset
from cftrec.data.sources.sheet import read_table
from cftrec.errors import InputError
from cftrec.evaluation.evaluate import Evaluation, evaluate, list_length
from cftrec.evaluation.given_lists import Lists, read_lists
from cftrec.evaluation.ranker import Found, Items
from cftrec.evaluation.verdict import POPULAR


class _StandingLists:
    """Gives lists out in the order of the split's targets, which is the order in which `evaluate` asks."""

    def __init__(self, dataset: Dataset, name: str, lists: Lists) -> None:
        self.catalogue = SimpleNamespace(item_ids=dataset.items["item_id"].to_list())
        self.counts, self.run_name = dataset.item_counts(), name
        self.lists, self.given = lists, 0

    def search(self, histories: list[Items], k: int, keep: list[int] | None = None) -> Found:
        """Return the next lists; what stands in them is not touched, be it of the history or not."""
        rows = slice(self.given, self.given + len(histories))
        self.given = rows.stop
        items = self.lists.items[rows]
        scores = np.zeros_like(items, dtype=np.float32) if self.lists.scores is None else self.lists.scores[rows]
        return SimpleNamespace(items=items, scores=scores, exact=np.ones(len(items), dtype=bool))


def evaluate_predictions(out: Path, data: Path, file: Path, split: str = "test", k: int = 20) -> Evaluation:
    """Evaluate a table of recommendations on a Dataset and write a folder of predictions, whole or not at all.

    Args:
        out: the folder to make; its name names the system in comparisons.
        data: a Dataset folder.
        file: the table, see `read_lists`.
        split: "train", "validation" or "test".
        k: length of the lists, at least 20; what a table ranks below is not read.

    Returns:
        The evaluation: `scores` are null where the table has none, and so is `exact`, of which a table says nothing.

    Raises:
        InputError: `out` is taken or its name is not UTF-8, k is below 20, the dataset cannot be read, or the table
            cannot be used (`read_lists`).
    """
    out = out.resolve()
    refuse_if_taken(out)
    if out.name == POPULAR:
        raise InputError(f"{out}: '{POPULAR}' is the popularity baseline's name in comparisons; name another folder")
    refuse_unspellable(out)
    dataset = Dataset.load(data)
    k = list_length(k, dataset.items.height)
    sheet = read_table(file)
    lists = read_lists(sheet, dataset, split, k)
    result = evaluate(_StandingLists(dataset, out.name, lists), dataset, split, k)
    unsaid = [pl.lit(None, pl.Boolean).alias("exact")]
    if lists.scores is None:
        unsaid.append(pl.lit(None, pl.List(pl.Float32)).alias("scores"))
    facts = {key: value for key, value in result.facts.items() if key != "exact_share"} | lists.facts
    result = replace(result, ranks=result.ranks.with_columns(unsaid), facts=facts)
    save_predictions(out, data, dataset, result, {"table": sheet.facts})
    return result


def save_predictions(out: Path, data: Path, dataset: Dataset, result: Evaluation, manifest: dict[str, Any]) -> None:
    """Write a folder of predictions: the files of an evaluation, the catalogue, and the manifest.

    Raises:
        InputError: `out` is taken or cannot be written.
    """
    source = {"path": str(data), "sha256": sha256(data / MANIFEST)}
    with new_folder(out, "predictions", {"name": out.name, "dataset": source} | manifest) as staging:
        result.save(staging)
        count = pl.Series("count", dataset.item_counts())
        dataset.items.select("item_id", "title").with_columns(count).write_ipc(staging / "catalogue.arrow")
