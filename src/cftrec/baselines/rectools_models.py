"""The only place that knows RecTools: a log as its table, its models, and what they recommend."""

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cftrec.baselines.settings import Settings
from cftrec.data.dataset import TRAIN, Dataset
from cftrec.errors import InputError
from cftrec.evaluation import per_target, rank_by_popularity
from cftrec.evaluation.evaluate import Progress, rank_targets
from cftrec.evaluation.ranker import Found, Items
from cftrec.ragged import Ragged, ranges

try:
    import pandas as pd
    from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender
    from rectools.dataset import Dataset as Table
    from rectools.dataset import IdMap, Interactions
    from rectools.models import BERT4RecModel, EASEModel, ImplicitItemKNNWrapperModel, PopularModel, SASRecModel
    from rectools.models.nn.transformers.lightning import TransformerLightningModule
except ImportError as error:
    raise InputError(
        f"baselines need RecTools, which is not whole here ({error}); "
        "install it with `make baselines` or `pip install 'cftrec[baselines]'`"
    ) from error

PACKAGES = ("rectools", "pm-implicit", "pytorch-lightning", "pandas", "scipy")
BATCH = 4096  # histories ranked at once; each call of RecTools makes tables anew
_KNN = {"cosine": CosineRecommender, "tfidf": TFIDFRecommender, "bm25": BM25Recommender}

Ints = NDArray[np.int64]


class Fitted:
    """A trained model of RecTools as a `Ranker` of the evaluation; its items are the Dataset's.

    Attributes:
        model: the model of RecTools.
        known: int64, the items that have training events, ascending; no other is ever recommended.
        distinct: a history is the set of its items; otherwise a sequence.
        epochs: passes over the training events, None for a model that is not trained by steps.
    """

    def __init__(self, dataset: Dataset, name: str, model: Any, distinct: bool) -> None:
        self.catalogue = SimpleNamespace(item_ids=dataset.items["item_id"].to_list())
        self.counts, self.run_name = dataset.item_counts(), name
        self.model, self.distinct = model, distinct
        self.known = np.flatnonzero(self.counts)
        self.epochs: int | None = None

    def search(self, histories: list[Items], k: int, keep: list[int] | None = None) -> Found:
        """Return the best k items for each history, its items left out except keep[b] (-1: none kept).

        Where the model has no answer, since it knows nothing of a history, popularity's list stands in, with `exact`
        False. Popularity's scores are log(1 + training events), whose softmax makes sense.
        """
        kept = np.full(len(histories), -1) if keep is None else np.asarray(keep)
        known = [past[self.counts[past] > 0] for past in histories]
        items = np.full((len(histories), k), -1, dtype=np.int32)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        repeats = np.array([item in past for item, past in zip(kept, known, strict=True)], dtype=bool)
        filled = np.array([past.size > 0 for past in known], dtype=bool)
        for rows in (np.flatnonzero(filled & ~repeats), np.flatnonzero(filled & repeats)):
            if rows.size:
                row, place, item, score = self._recommend([known[row] for row in rows], k, kept[rows])
                items[rows[row], place] = item
                scores[rows[row], place] = np.log1p(score) if self.run_name == "popular" else score
        silent = np.flatnonzero(items[:, 0] < 0)
        popular = rank_by_popularity(self.counts, [histories[row] for row in silent], kept[silent], k).items
        items[silent], scores[silent] = popular, np.where(popular < 0, -np.inf, np.log1p(self.counts[popular]))
        return SimpleNamespace(items=items, scores=scores, exact=~np.isin(np.arange(len(items)), silent))

    def _recommend(
        self, histories: list[Items], k: int, kept: NDArray[np.integer]
    ) -> tuple[Ints, Ints, Ints, NDArray[np.floating]]:
        """Return row, place (from 0), item and score of each recommendation; none of the histories is empty.

        RecTools leaves out all of a history or nothing, so where its own target is to be kept, longer lists are asked
        for and the rest of the history is taken out here. It sizes its matrices by the items that it finds, so a
        further user, who is not asked, has them all.
        """
        past = Ragged.of([np.unique(history) for history in histories] if self.distinct else histories)
        users, size = np.arange(len(histories)), self.counts.size
        rows = np.repeat(users, past.lengths)
        keeps = bool((past.values == kept[rows]).any())
        with _quiet():
            found = self.model.recommend(
                users=users,
                dataset=_table(
                    np.append(rows, np.full(self.known.size, users.size)),
                    np.append(past.values, self.known),
                    self.known,
                ),
                k=min(self.known.size, k + int(past.lengths.max())) if keeps else k,
                filter_viewed=not keeps,
                on_unsupported_targets="ignore",
            ).sort_values(["user_id", "rank"])
        row, item, score = (found[name].to_numpy() for name in ("user_id", "item_id", "score"))
        free = ~np.isin(row * size + item, rows * size + past.values) | (item == kept[row])
        row, item, score = row[free], item[free], score[free]
        place = np.arange(row.size) - np.searchsorted(row, row)
        near = place < k
        return row[near], place[near], item[near], score[near]


def fit(name: str, dataset: Dataset, settings: Settings, progress: Progress | None = None) -> Fitted:
    """Train a baseline on the training events.

    SASRec and BERT4Rec learn by cross-entropy over the whole catalogue, without sampled negatives, from all events: a
    history longer than `length` is cut into windows, where RecTools alone would drop its older part. Training stops
    when NDCG@10 of all validation targets, ranked as by `cftrec evaluate`, has not become better for `patience`
    epochs, and the best epoch's weights stay.

    Args:
        name: one of `settings.MODELS`.
        dataset: the log.
        settings: a value for every setting of the model.
        progress: called with (epochs done, epochs at most) where a model is trained by steps.
    """
    train = np.flatnonzero(dataset.split == TRAIN)
    users, items, size = dataset.user_of(train), dataset.events[train], dataset.items.height
    if name in ("sasrec", "bert4rec"):
        return _fit_by_steps(name, dataset, settings, progress)
    if name == "popular":
        model, distinct = PopularModel("n_interactions"), False
    elif name == "itemknn":
        knn = _KNN[settings["weighting"]](K=settings["neighbours"])
        model, distinct = ImplicitItemKNNWrapperModel(knn), True
    else:
        model, distinct = EASEModel(settings["regularization"]), True
    if distinct:
        users, items = np.divmod(np.unique(users * size + items), size)
    with _quiet():
        model.fit(_table(users, items, np.unique(items)))
    if name == "ease":  # RecTools 0.19 multiplies histories by the transposed weights, which is another model
        model.weight = np.ascontiguousarray(model.weight.T)
    return Fitted(dataset, name, model, distinct)


def ndcg(fitted: Fitted, dataset: Dataset) -> float:
    """Return the mean NDCG@10 of all validation targets, ranked as by `cftrec evaluate`."""
    ranks = rank_targets(fitted, dataset, dataset.targets("validation"), BATCH)
    return float(per_target(ranks)["NDCG@10"].mean())


def _fit_by_steps(name: str, dataset: Dataset, settings: Settings, progress: Progress | None) -> Fitted:
    torch.manual_seed(settings["seed"])
    np.random.seed(settings["seed"])  # draws BERT4Rec's masks
    options = {
        "n_factors": settings["factors"],
        "n_blocks": settings["blocks"],
        "n_heads": settings["heads"],
        "session_max_len": settings["length"],
        "dropout_rate": settings["dropout"],
        "lr": settings["learning_rate"],
        "batch_size": settings["batch_size"],
        "loss": "softmax",
        "lightning_module_type": LabelledLogits,
    }
    with _quiet():
        model = SASRecModel(**options) if name == "sasrec" else BERT4RecModel(**options, mask_prob=settings["mask"])
    fitted = Fitted(dataset, name, model, distinct=False)
    table = _table(*windows(dataset, settings["length"]), fitted.known)
    best, weights = -1.0, {}
    for epoch in range(1, settings["epochs"] + 1):
        _pass_over(model, table)
        score = ndcg(fitted, dataset)
        if score > best:
            best, weights, fitted.epochs = score, deepcopy(model.torch_model.state_dict()), epoch
        if progress is not None:
            progress(epoch, settings["epochs"])
        if epoch - (fitted.epochs or 0) >= settings["patience"]:
            break
    model.torch_model.load_state_dict(weights)
    return fitted


def _pass_over(model: Any, table: Any) -> None:
    """Train for one epoch more."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        with _quiet():
            model.fit_partial(table, min_epochs=1, max_epochs=1)
    except SystemExit as stop:  # what Lightning makes of Ctrl-C, after which it ignores further ones
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from stop


class LabelledLogits(TransformerLightningModule):
    """RecTools' cross-entropy over the catalogue, with logits at labelled positions only.

    RecTools forms them for padding and unmasked items, too, which for BERT4Rec is most of its time. The loss is equal.
    """

    def get_batch_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Return logits [labelled positions, items and extra tokens]."""
        embeddings = self.torch_model.item_model.get_all_embeddings()
        states = self.torch_model.encode_sessions(batch, embeddings)[batch["y"] != 0]
        return self.torch_model.similarity_module(states, embeddings)

    @classmethod
    def _calc_softmax_loss(cls, logits: Tensor, y: Tensor, w: Tensor) -> Tensor:
        total = torch.nn.functional.cross_entropy(logits, y[y != 0], reduction="sum")
        return total / max(1, len(logits))


def windows(dataset: Dataset, length: int) -> tuple[Ints, Ints]:
    """Cut the users' training events into windows of length + 1, newest first, each sharing one event with the next.

    So every training event but a user's first is a target once, and the newest windows are full.

    Returns:
        int64 [n] number of the window and item of each event, oldest first within a window.
    """
    train = np.flatnonzero(dataset.split == TRAIN)
    users, counts = np.unique(dataset.user_of(train), return_counts=True)
    pieces = np.maximum(1, -(-(counts - 1) // length))
    owner = np.repeat(np.arange(users.size), pieces)
    number = ranges(np.zeros_like(pieces), pieces)
    end = np.cumsum(counts)[owner] - number * length  # in `train`, which is user by user
    begin = np.maximum((np.cumsum(counts) - counts)[owner], end - length - 1)
    return np.repeat(np.arange(owner.size), end - begin), dataset.events[train[ranges(begin, end - begin)]].astype(
        np.int64
    )


def _table(users: Ints, items: NDArray[np.integer], known: Ints) -> Any:
    """Return events, oldest first within a user, as a table of RecTools over the known items."""
    order = pd.to_datetime(np.arange(users.size))
    frame = pd.DataFrame({"user_id": users, "item_id": items, "weight": 1.0, "datetime": order})
    user_map, item_map = IdMap.from_values(np.unique(users)), IdMap.from_values(known)
    return Table(user_map, item_map, Interactions.from_raw(frame, user_map, item_map))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep notices of RecTools, Lightning and implicit off the terminal; errors still show."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
