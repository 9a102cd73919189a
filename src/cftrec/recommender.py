"""What a user holds: a trained RUN that recommends and scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import yaml
from numpy.typing import ArrayLike, NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from cftrec.artefacts import read_json, read_manifest
from cftrec.decoding import SearchResult, search, sequence_log_probs
from cftrec.decoding.explanation import (
    Explanation,
    ItemEffect,
    TokenEffect,
    draw_orders,
    split_over_items,
    wanted_sets,
)
from cftrec.decoding.paths import item_log_probs, prompt_log_probs
from cftrec.decoding.priors import PRIORS, SMOOTHING, Prior, counts_prior, model_prior
from cftrec.decoding.search import BUDGET
from cftrec.errors import InputError
from cftrec.ragged import Ragged
from cftrec.text import Catalogue, Prompt
from cftrec.text.tokenizer import token_texts
from cftrec.training import CFTTrainer
from cftrec.training.run import CONFIG, MODEL, PROMPT, quiet_transformers

Items = NDArray[np.integer[Any]]
_BATCH = 32  # users searched at once


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: the source's id.
        title: its title.
        score: log p(title | history).
        exact: whether the search proved that the list it stands in is the best one; False once the budget is spent.
    """

    item_id: str
    title: str
    score: float
    exact: bool


@dataclass(frozen=True, eq=False)
class Recommender:
    """A language model that recommends from its catalogue.

    Attributes:
        model: a transformers causal language model in eval mode.
        catalogue: the items, their titles and how often each was a training event.
        prompt: x_h and x_0 in the model's tokens.
        window: most recent items that a prompt shows.
        softmax: what log p normalises over, "catalogue" or "vocabulary".
        run_name: the RUN's name.
        batching: how the model runs titles together, "forest" or "padded" (each by itself), as in training.
        prior_weight: how much training made the model's answer without history a prior; 0: not at all.
        tokenizer: the model's, which spells tokens in explanations; None: they are shown as numbers.
    """

    model: Any
    catalogue: Catalogue
    prompt: Prompt
    window: int
    softmax: str
    run_name: str
    batching: str = "forest"
    prior_weight: float = 0.0
    tokenizer: Any = None

    @classmethod
    def from_pretrained(cls, run: str | Path) -> Self:
        """Load a RUN folder; it needs nothing else.

        Raises:
            InputError: not a RUN, or a file is missing or broken.
        """
        folder = Path(run)
        manifest = read_manifest(folder, "run")
        quiet_transformers()
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        model = AutoModelForCausalLM.from_pretrained(folder / MODEL, local_files_only=True).eval()
        if torch.cuda.is_available():
            model = model.to("cuda")
        return cls(
            model=model,
            catalogue=Catalogue.load(folder),
            prompt=Prompt.from_dict(read_json(folder / PROMPT)),
            window=config["window"],
            softmax=config["decode_softmax"],
            run_name=manifest["name"],
            batching=config.get("batching", "forest"),
            prior_weight=config.get("prior_weight", 0.0),
            tokenizer=AutoTokenizer.from_pretrained(folder / MODEL, local_files_only=True),
        )

    @classmethod
    def from_trainer(cls, trainer: CFTTrainer) -> Self:
        """Hold the model in training, as it is and will be, with its adapters; the caller sets eval mode."""
        return cls(
            model=trainer.model.model,
            catalogue=trainer.catalogue,
            prompt=trainer.prompt,
            window=trainer.args.window,
            softmax=trainer.args.decode_softmax,
            run_name=trainer.args.run_name or "",
            batching=trainer.batching,
            prior_weight=trainer.args.prior_weight,
        )

    @property
    def counts(self) -> NDArray[np.int64]:
        """Training events of each item, int64 [I]."""
        return self.catalogue.counts

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        keep_history: bool = False,
        budget: int = BUDGET,
    ) -> list[list[Recommendation]]:
        """Return each user's k most likely next items, best first.

        Args:
            histories: for each user the titles, oldest first; none at all asks for what the model expects of anyone.
            k: items wanted; fewer come back only where the catalogue holds no more.
            keep_history: also recommend what is in the history.
            budget: most beginnings of titles expanded for a user; `exact` tells whether that sufficed.

        Raises:
            InputError: a title is not in the catalogue (the message offers the nearest three), or k < 1.
        """
        indices = [self.catalogue.index_of(titles) for titles in histories]
        found = self.search(indices, min(k, len(self.catalogue)), keep_history=keep_history, budget=budget)
        return [
            [
                Recommendation(self.catalogue.item_ids[item], self.catalogue.titles[item], float(score), bool(exact))
                for item, score in zip(items, scores, strict=True)
                if item >= 0
            ]
            for items, scores, exact in zip(found.items, found.scores, found.exact, strict=True)
        ]

    def search(
        self,
        histories: Sequence[Items],
        k: int,
        keep: Sequence[int] | None = None,
        keep_history: bool = False,
        budget: int = BUDGET,
        progress: Callable[[int], None] | None = None,
        deny: Sequence[ArrayLike] | None = None,
    ) -> SearchResult:
        """Find the k most likely items after each history, given and returned as item indices.

        Args:
            histories: for each user the items, oldest first; all of them are left out of the answer, the newest
                `window` are shown to the model.
            k: items wanted, at least 1.
            keep: for each user one item that is not left out (an evaluation never leaves out its own target).
            keep_history: leave nothing out.
            budget: most beginnings expanded for a user.
            progress: called with the number of users done after each batch.
            deny: for each user further items that are left out.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        excluded = [np.empty(0, dtype=np.int64) if keep_history else np.asarray(history) for history in histories]
        if keep is not None:
            excluded = [items[items != kept] for items, kept in zip(excluded, keep, strict=True)]
        if deny is not None:
            excluded = [np.union1d(items, denied) for items, denied in zip(excluded, deny, strict=True)]
        parts = []
        order = np.argsort([len(history) for history in histories], kind="stable")
        for begin in range(0, len(order), _BATCH):
            batch = order[begin : begin + _BATCH]
            prompts = [self._shown(histories[user]) for user in batch]
            banned = [excluded[user] for user in batch]
            result = search(
                self.model,
                self.catalogue,
                prompts,
                k,
                softmax=self.softmax,
                excluded=banned,
                budget=budget,
                batching=self.batching,
            )
            parts.append(result)
            if progress:
                progress(len(batch))
        return _reordered(parts, order, k)

    def score(self, histories: Sequence[Sequence[str]], titles: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(title | history), float64 [histories, titles], by brute force: the whole model on every pair.

        Raises:
            InputError: a title is not in the catalogue.
        """
        items = self.catalogue.index_of(titles)
        shown = [self._shown(self.catalogue.index_of(history)) for history in histories]
        prompts = [prompt for prompt in shown for _ in items]
        log_probs = sequence_log_probs(self.model, prompts, [*items] * len(shown), self.catalogue, self.softmax)
        scores = np.array([tokens.sum() for tokens in log_probs])
        return scores.reshape(len(shown), len(items))

    def log_probs(
        self, histories: Sequence[Items], items: Sequence[ArrayLike], softmax: str | None = None
    ) -> list[Ragged]:
        """Return log p of each token of given items after each history; every prompt is computed once.

        Args:
            histories: n arrays of item indices, oldest first; the newest `window` are shown to the model.
            items: for each history the item indices to score, any number.
            softmax: "catalogue" or "vocabulary"; None: the recommender's own.

        Returns:
            For each history, float64: a run of log p (nats) an item, which adds up to log p(title | history).
        """
        results: list[Ragged] = [Ragged.of([])] * len(histories)
        order = np.argsort([len(history) for history in histories], kind="stable")
        for begin in range(0, len(order), _BATCH):
            batch = order[begin : begin + _BATCH]
            asked = Ragged.of([items[user] for user in batch])
            prompts = [self._shown(histories[user]) for user in batch]
            found = item_log_probs(
                self.model, self.catalogue, prompts, asked, softmax=softmax or self.softmax, batching=self.batching
            )
            before = np.concatenate(([0], np.cumsum(found.lengths)))  # tokens before each item
            values = np.split(found.values, before[asked.starts[1:]])
            for user, value, lengths in zip(batch, values, np.split(found.lengths, asked.starts[1:]), strict=True):
                results[user] = Ragged(value, lengths)
        return results

    def explain(
        self, history: Sequence[str], title: str, prior: str = "counts", shapley: int = 0, seed: int = 0
    ) -> Explanation:
        """Say what a history causes: the total effect on one title, split over its tokens and over the history's items.

        The effect is log p(title | history) - log prior(title) under the catalogue softmax, in nats. All prompts it
        takes, one for each set of history items, are computed as one forest. See `cftrec.decoding.explanation`.

        Args:
            history: titles, oldest first, at least one; the newest `window` that fit the prompt are shown to the model.
            title: the title to explain.
            prior: "counts", "trained" or "counterfactual" (`prior`).
            shapley: random orders of the history that Shapley values are means of; 0: none. Where all orders are no
                more than that, all are run and the values are exact. An order costs up to n - 1 prompts.
            seed: of the orders.

        Raises:
            InputError: a title is not in the catalogue, the history is empty, an unknown prior or one that the RUN has
                not trained, or shapley is 1 or below 0.
        """
        (item,) = self.catalogue.index_of([title])
        return self.explain_item(self.catalogue.index_of(history), int(item), prior, shapley, seed)

    def explain_item(
        self, history: Items, item: int, prior: str = "counts", shapley: int = 0, seed: int = 0
    ) -> Explanation:
        """Explain an item as `explain` does, the history (oldest first) and the item given as item indices."""
        if not len(history):
            raise InputError("the history is empty, and nothing has no effect; give at least one title")
        self._check_prior(prior)
        seen = self._fitting(history)
        orders = draw_orders(len(seen), shapley, seed)
        none = np.zeros((1, len(seen)), dtype=bool)
        sets, place = np.unique(np.concatenate([none, wanted_sets(orders)]), axis=0, return_inverse=True)
        prompts = [self._shown(seen[members]) for members in sets]
        log_p = prompt_log_probs(self.model, self.catalogue, prompts, item, batching=self.batching)
        # No items come first of all sets, and are worth the prior; the model's own is its answer to their prompt.
        expected = self.prior(prior).tokens([item]).values if prior == "counts" else log_p[0]
        values = np.append(expected.sum(), log_p[1:].sum(axis=1))[place.ravel()[1:]]
        missed, shares, errors = split_over_items(values, orders)
        ids, titles = self.catalogue.item_ids, self.catalogue.titles
        return Explanation(
            item_id=ids[item],
            title=titles[item],
            prior=prior,
            log_p=float(values[0]),
            log_prior=float(expected.sum()),
            effect=float(values[0] - expected.sum()),
            tokens=self._token_effects(item, log_p[-1], expected),  # all items come last
            history=[
                ItemEffect(
                    item_id=ids[one],
                    title=titles[one],
                    effect=float(missed[turn]),
                    shapley=None if shares is None else float(shares[turn]),
                    shapley_error=None if errors is None else float(errors[turn]),
                )
                for turn, one in enumerate(seen)
            ],
            orders=len(orders),
        )

    def _fitting(self, history: Items) -> Items:
        """Return the newest items of a history that its prompt shows."""
        seen = np.asarray(history, dtype=np.int64)[-self.window :]
        parts = self.prompt.parts([self.catalogue.sequence(int(item)) for item in seen], self.catalogue.longest)
        fitting = (len(parts) - 1) // 2  # each has one part, and another that separates it
        if not fitting:
            raise InputError("not even the newest title of the history fits the prompt, so it has no effect")
        return seen[-fitting:]

    def _token_effects(self, item: int, log_p: NDArray[np.float64], expected: NDArray[np.float64]) -> list[TokenEffect]:
        trie, tokens = self.catalogue.trie, self.catalogue.sequence(item)
        inner = tokens[: len(tokens) - len(self.prompt.closing)]
        texts = (
            [f"<{token}>" for token in inner] if self.tokenizer is None else token_texts(self.tokenizer, inner.tolist())
        )
        texts += [""] * len(self.prompt.closing)
        choices = trie.choices[trie.parent[trie.path(item)]]
        return [
            TokenEffect(text, bool(choice), float(likely), float(usual), float(likely - usual))
            for text, choice, likely, usual in zip(texts, choices, log_p, expected, strict=True)
        ]

    def prior(self, name: str = "counts", smoothing: float = SMOOTHING) -> Prior:
        """Return what is expected of anyone, token by token and item by item; see `cftrec.decoding.priors`.

        Args:
            name: "counts": training frequencies; "trained": the model's own answer to the prompt without history, of a
                RUN whose training kept it (`prior_weight`); "counterfactual": the same of any RUN, which is no prior
                after CFT, for that erases it.
            smoothing: of "counts", events added to every item.

        Raises:
            InputError: an unknown name, or "trained" of a RUN that has trained none.
        """
        self._check_prior(name)
        if name == "counts":
            return counts_prior(self.catalogue.trie, self.counts, smoothing)
        return model_prior(name, self.model, self.catalogue, self.prompt.counterfactual(), self.batching)

    def _check_prior(self, name: str) -> None:
        if name not in PRIORS:
            raise InputError(f"prior {name!r} is not known; choose one of {', '.join(PRIORS)}")
        if name == "trained" and not self.prior_weight:
            raise InputError(
                f"prior 'trained': {self.run_name} has trained none; train with --set prior_weight=0.1 or the like, or "
                "choose counts"
            )

    def _shown(self, history: Items) -> NDArray[np.int32]:
        """Return x_h; a user without a history gets x_0, which is what the model has learnt for that."""
        if not len(history):
            return self.prompt.counterfactual()
        recent = [self.catalogue.sequence(int(item)) for item in history[-self.window :]]
        return self.prompt.factual(recent, self.catalogue.longest)


def _reordered(parts: Sequence[SearchResult], order: NDArray[np.int64], k: int) -> SearchResult:
    """Put the batches' results into the users' own order."""
    back = np.argsort(order)
    if not parts:
        empty = np.empty(0, dtype=np.int64)
        return SearchResult(np.empty((0, k), np.int32), np.empty((0, k)), empty.astype(bool), empty)
    fields = (
        np.concatenate([getattr(part, name) for part in parts])[back]
        for name in ("items", "scores", "exact", "expanded")
    )
    return SearchResult(*fields)
