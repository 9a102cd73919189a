"""What a comparison needs of RUNs that take hours, kept beside their study's result and put back where they are gone.

Kept are the lists as the items' numbers in the Dataset, in the order of its test targets, and facts: nothing of the
log, which may not be copied. Whoever has the log makes the same Dataset and gets the RUN's evaluation again.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cftrec import Dataset
from cftrec.artefacts import MANIFEST, read_json, write_json
from cftrec.evaluation.evaluate import write_parquet

LISTS, FACTS = "lists.parquet", "facts.json"  # the facts come last
TRAINED = ("config", "steps", "epochs", "parameters", "seconds")  # of a RUN's manifest
EVALUATED = ("seconds", "effect_targets", "exact_share")  # of its evaluation


def identity(dataset: Dataset) -> str:
    """Return what stands for a Dataset's items, events and split, wherever it was made."""
    key = hashlib.sha256("\n".join(dataset.items["item_id"].to_list()).encode())
    for array in (dataset.offsets, dataset.events, dataset.split):
        key.update(np.ascontiguousarray(array).tobytes())
    return key.hexdigest()


def keep_run(run: Path, dataset: Dataset, kept: Path, about: dict[str, Any]) -> None:
    """Keep what comparing needs of a RUN's evaluation of all test targets; `about` says what it was made of."""
    if is_kept(kept, dataset, about):
        return
    kept.mkdir(parents=True, exist_ok=True)
    (kept / FACTS).unlink(missing_ok=True)
    number = {item: place for place, item in enumerate(dataset.items["item_id"].to_list())}
    lists = [[number[item] for item in items] for items in pl.read_parquet(run / "ranks.parquet")["items"]]
    write_parquet(kept / LISTS, pl.DataFrame({"items": pl.Series(lists, dtype=pl.List(pl.UInt32))}))
    manifest, evaluation = read_json(run / MANIFEST), read_json(run / "evaluation.json")
    facts = {
        "about": about | {"dataset": identity(dataset)},
        "manifest": {name: manifest[name] for name in TRAINED},
        "evaluation": {name: evaluation[name] for name in EVALUATED},
        "tokens_computed": sum(line.get("tokens_computed", 0) for line in read_json(run / "log.json")["log"]),
        "effects": read_json(run / "effects.json"),
    }
    write_json(kept / FACTS, facts)


def is_kept(kept: Path, dataset: Dataset, about: dict[str, Any]) -> bool:
    """Say whether a RUN made of the same is kept."""
    return (kept / FACTS).exists() and read_json(kept / FACTS)["about"] == about | {"dataset": identity(dataset)}


def kept_lists(kept: Path, dataset: Dataset) -> pl.DataFrame:
    """Return a kept RUN's lists as `cftrec evaluate --predictions` takes them: user, history_length, items."""
    positions = dataset.targets("test")
    users, names = dataset.user_of(positions), dataset.items["item_id"].to_numpy()
    return pl.DataFrame(
        {
            "user": dataset.users.gather(users).cast(pl.String),
            "history_length": positions - dataset.offsets[users],
            "items": [names[items].tolist() for items in pl.read_parquet(kept / LISTS)["items"].to_list()],
        }
    )


def add_facts(folder: Path, kept: Path) -> None:
    """Make an evaluation of the kept lists that of the RUN: its training, its times, and the history's effect."""
    facts = read_json(kept / FACTS)
    write_json(folder / "evaluation.json", read_json(folder / "evaluation.json") | facts["evaluation"])
    write_json(folder / "effects.json", facts["effects"])
    write_json(folder / "log.json", {"log": [{"tokens_computed": facts["tokens_computed"]}]})
    write_json(folder / MANIFEST, read_json(folder / MANIFEST) | facts["manifest"] | {"files": {}})
