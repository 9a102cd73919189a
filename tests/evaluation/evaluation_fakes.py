"""Small logs, rankers and RUN folders that are written by hand."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl

from cftrec.artefacts import new_folder
from cftrec.data.dataset import Dataset
from cftrec.decoding import counts_prior
from cftrec.ragged import Ragged
from cftrec.text import Catalogue

ITEMS = 40
SCRIPT = '<script>alert("title")</script> & Söhne {{ 7 * 7 }} $x$'


def make_dataset(users: int = 30, seed: int = 0, targets_each: int = 1) -> Dataset:
    """A random log with the last events of each user as test targets; items 0 .. 39, popular ones first."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 30, size=users) + targets_each
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    weights = 1 / np.arange(1, ITEMS + 1)
    events = rng.choice(ITEMS, size=offsets[-1], p=weights / weights.sum()).astype(np.int32)
    split = np.zeros(events.size, dtype=np.uint8)
    for back in range(1, targets_each + 1):
        split[offsets[1:] - back] = 2
    split[offsets[1:] - targets_each - 1] = 1
    ids = [f"i{item}" for item in range(ITEMS)]
    titles = [SCRIPT if item == 0 else f"Title {item}" for item in range(ITEMS)]
    manifest = {"name": "made up", "source": {"format": "table"}, "split": {"rule": "leave-one-out"}}
    users_column = pl.Series("user_id", [f"u{user}" for user in range(users)])
    return Dataset(
        pl.DataFrame({"item_id": ids, "title": titles}), users_column, offsets, events, split, None, manifest
    )


@dataclass
class Ranker:
    """Ranks by popularity with noise, history left out; knows the items `item_ids` only."""

    run_name: str
    item_ids: list[str]
    counts: np.ndarray
    noise: float = 0.0
    seed: int = 0

    @property
    def catalogue(self) -> SimpleNamespace:
        return SimpleNamespace(item_ids=self.item_ids)

    def search(self, histories, k, keep=None, keep_history=False):
        rng = np.random.default_rng(self.seed)
        items = np.full((len(histories), k), -1, dtype=np.int32)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        for row, history in enumerate(histories):
            score = self.counts + self.noise * rng.standard_normal(self.counts.size)
            score[[] if keep_history else history[history != keep[row]]] = -np.inf
            best = np.argsort(-score, kind="stable")[:k]
            best = best[np.isfinite(score[best])]
            items[row, : best.size], scores[row, : best.size] = best, score[best]
        return SimpleNamespace(items=items, scores=scores, exact=np.arange(len(histories)) % 2 == 0)

    def prior(self, name="counts"):
        sequences = [[int(item_id[1:]) // 10, int(item_id[1:]) % 10, 10] for item_id in self.item_ids]
        return counts_prior(Catalogue.build(self.item_ids, self.item_ids, sequences).trie, self.counts)

    def log_probs(self, histories, items, softmax=None):
        """Half the prior's log p: an effect of as much."""
        runs = [self.prior().tokens(chosen) for chosen in items]
        return [Ragged(run.values / 2, run.lengths) for run in runs]


def ranker_for(dataset: Dataset, name: str = "cft", noise: float = 0.0, seed: int = 0) -> Ranker:
    return Ranker(name, dataset.items["item_id"].to_list(), dataset.item_counts(), noise, seed)


def write_run(path: Path, ranker: Ranker, dataset: Dataset, **config: object) -> Path:
    """Write a RUN folder as far as an evaluation reads it; `config` goes before the options that are there."""
    manifest = {
        "name": ranker.run_name,
        "config": {"model": "nano", "seed": 13, "effect_weight": 0.1} | config,
        "training": {"steps": 1234, "seconds": 90.0},
    }
    known = dict(zip(dataset.items["item_id"], dataset.items["title"], strict=True))
    titles = [known[item_id] for item_id in ranker.item_ids]
    with new_folder(path, "run", manifest) as staging:
        table = pl.DataFrame({"item_id": ranker.item_ids, "title": titles, "count": ranker.counts})
        table.write_ipc(staging / "catalogue.arrow")
    return path
