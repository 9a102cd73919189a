"""What a user holds: a trained RUN that recommends and scores."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import polars as pl
import torch
import yaml
from numpy.typing import ArrayLike, NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from cftrec.artefacts import read_json, read_manifest, stored_arrays
from cftrec.decoding import Cap, SearchResult, search, sequence_log_probs
from cftrec.decoding.explanation import (
    Explanation,
    ItemEffect,
    TokenEffect,
    draw_orders,
    split_over_items,
    wanted_sets,
)
from cftrec.decoding.guided import TOP, GuidedResult, guided
from cftrec.decoding.helper import mixed_with
from cftrec.decoding.paths import item_log_probs, prompt_log_probs
from cftrec.decoding.priors import PRIORS, SMOOTHING, Prior, counts_prior, model_prior
from cftrec.decoding.search import BUDGET
from cftrec.decoding.ungrounded import BEAMS, MOST_BEAMS, UngroundedResult, title_embeddings, ungrounded
from cftrec.errors import InputError
from cftrec.forest.attention import BLOCKS
from cftrec.forest.backbone import take_any_shape
from cftrec.ragged import Ragged
from cftrec.text import Catalogue, Prompt
from cftrec.text.tokenizer import token_texts
from cftrec.training import CFTTrainer
from cftrec.training.add import add_items
from cftrec.training.machine import warn_of_slow_bf16
from cftrec.training.run import CONFIG, MODEL, PROMPT, catalogue_of, quiet_transformers

Items = NDArray[np.integer[Any]]
_Result = TypeVar("_Result", SearchResult, UngroundedResult)
BATCH = 128 if torch.cuda.is_available() else 32
"""Users searched at once: more on a GPU, where a pass takes about as long for many as for few."""
_PRIOR, _EMBEDDINGS = "prior.safetensors", "title_embeddings.safetensors"  # in the RUN, once they were asked for


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: the source's id.
        title: its title.
        score: what it is ranked by: log_p, or log_p + gamma x effect.
        exact: whether the search proved that the list it stands in is the best one; False once the budget is spent.
            With a gamma: that what was ordered anew are the likeliest items.
        bound: where it is not exact, the highest log p that a title which was not looked into could have; else -inf.
        untrained: whether the way to the title passes a choice that did not exist in training (`Catalogue.untrained`).
        log_p: log p(title | history) under the RUN's softmax (nats).
        effect: log p(title | history) - log prior(title), under the catalogue softmax (nats); None without a gamma.
    """

    item_id: str
    title: str
    score: float
    exact: bool
    log_p: float
    effect: float | None = None
    bound: float = -np.inf
    untrained: bool = False


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
        folder: the RUN, in which the model's prior and the titles' embeddings are stored once they were asked for;
            None: they are computed each time, as of a model that is still in training.
        model_key: stands for the model's weights in `folder`.
    """

    model: Any
    catalogue: Catalogue
    prompt: Prompt
    window: int
    softmax: str
    run_name: str
    batching: str = "forest"
    prior_weight: float = 0.0
    folder: Path | None = None
    model_key: str = ""

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
        dtype = torch.bfloat16 if config.get("decode_bf16") else torch.float32
        model = AutoModelForCausalLM.from_pretrained(folder / MODEL, local_files_only=True, dtype=dtype).eval()
        if torch.cuda.is_available():
            take_any_shape()
            model = model.to("cuda")
        if dtype == torch.bfloat16:
            warn_of_slow_bf16(f"{folder}: decode_bf16=true", model.device)
        batching = config.get("batching", "forest")
        if batching == "forest":
            model.set_attn_implementation(BLOCKS)  # takes masks without copying the keys that heads share
        return cls(
            model=model,
            catalogue=catalogue_of(folder, manifest),
            prompt=Prompt.from_dict(read_json(folder / PROMPT)),
            window=config["window"],
            softmax=config["decode_softmax"],
            run_name=manifest["name"],
            batching=batching,
            prior_weight=config.get("prior_weight", 0.0),
            folder=folder,
            model_key=_model_key(manifest),
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

    @cached_property
    def identity(self) -> str:
        """SHA-256 of what the answers follow from, as it was loaded; the RUN's folder may hold more items by now."""
        catalogue = self.catalogue
        frame = (self.model_key, self.model.dtype, self.prompt, self.window, self.softmax, self.batching)
        key = hashlib.sha256(repr(frame).encode())
        texts = pl.DataFrame({"item_id": catalogue.item_ids, "title": catalogue.titles}).hstack(catalogue.columns)
        key.update(texts.write_csv(quote_style="always").encode())
        for array in (catalogue.tokens, catalogue.offsets, catalogue.counts, catalogue.trained):
            key.update(np.ascontiguousarray(array).tobytes())
        return key.hexdigest()

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        keep_history: bool = False,
        allow: Collection[str] | None = None,
        deny: Collection[str] = (),
        cap: Mapping[str, int] | None = None,
        budget: int = BUDGET,
        budget_ms: float | None = None,
        beam: int | None = None,
        gamma: float = 0.0,
        prior: str = "counts",
        top: int = TOP,
    ) -> list[list[Recommendation]]:
        """Return each user's k most likely next items, best first.

        Args:
            histories: for each user the titles, oldest first; none at all asks for what the model expects of anyone.
                Of several items with one title the model is shown the first, and all are left out.
            k: items wanted; fewer come back only where no more may be recommended, or the search ended early.
            keep_history: also recommend what is in the history.
            allow: ids or titles of the only items to recommend; None: all. A title means every item that has it.
            deny: ids or titles of items not to recommend.
            cap: at most so many items of a list have one value of a column of the item table, {"genre": 2}; items
                without a value are not counted.
            budget: most beginnings of titles expanded for a user; `exact` tells whether that sufficed.
            budget_ms: most milliseconds for a batch of users (32; on a GPU 128); None: no bound.
            beam: keep so many beginnings a level, as beam search does, instead of searching for the exact list; `exact`
                tells whether the list is proven to be that all the same.
            gamma: above 0, the `top` likeliest items are ordered by log p + gamma x (log p - log prior).
            prior: "counts", "trained" or "counterfactual" (`prior`); read where gamma is above 0.
            top: likeliest items that a gamma orders anew; at least k are. Rules and caps hold for these items.

        Raises:
            InputError: a title is not in the catalogue (the message offers the nearest three), no such column, k, beam,
                budget or a cap below 1, a budget_ms or a gamma below 0; with a gamma a top below 1, or a prior that
                the RUN does not have; or a model whose training diverged.
        """
        indices = [self.catalogue.index_of(titles) for titles in histories]
        denied = self.catalogue.named(deny)
        k = min(k, len(self.catalogue))
        options: dict[str, Any] = {
            "keep_history": keep_history,
            "allow": None if allow is None else [self.catalogue.named(allow)] * len(indices),
            "deny": [
                denied if keep_history else np.concatenate((denied, self.catalogue.namesakes(items)))
                for items in indices
            ],
            "cap": cap,
            "budget": budget,
            "budget_ms": budget_ms,
            "beam": beam,
        }
        if not gamma:
            found = self.search(indices, k, **options)
            return self._recommendations(found, found.scores, None)
        anew = self.guided(indices, k, gamma=gamma, prior=prior, top=top, **options)
        return self._recommendations(anew, anew.log_p, anew.effect)

    def _recommendations(
        self, found: SearchResult | GuidedResult, log_p: NDArray[np.float64], effect: NDArray[np.float64] | None
    ) -> list[list[Recommendation]]:
        catalogue = self.catalogue
        return [
            [
                Recommendation(
                    item_id=catalogue.item_ids[item],
                    title=catalogue.titles[item],
                    score=float(found.scores[row, place]),
                    exact=bool(found.exact[row]),
                    log_p=float(log_p[row, place]),
                    effect=None if effect is None else float(effect[row, place]),
                    bound=float(found.bound[row]),
                    untrained=bool(catalogue.untrained[item]),
                )
                for place, item in enumerate(items)
                if item >= 0
            ]
            for row, items in enumerate(found.items)
        ]

    def add_items(self, items: pl.DataFrame) -> Self:
        """Add new items without training, save them in the RUN, and return the recommender that knows them.

        Args:
            items: columns item_id, title and what else the item table has (`cftrec.training.add`).

        Raises:
            InputError: the items cannot be added, or there is no RUN yet.
        """
        if self.folder is None:
            raise InputError("new items are added to a RUN, and this model is still in training")
        return replace(self, catalogue=add_items(self.folder, items))

    def search(
        self,
        histories: Sequence[Items],
        k: int,
        keep: Sequence[int] | None = None,
        keep_history: bool = False,
        budget: int = BUDGET,
        progress: Callable[[int], None] | None = None,
        helper: NDArray[np.floating[Any]] | Sequence[ArrayLike] | None = None,
        helper_weight: float = 0.5,
        *,
        allow: Sequence[Items | None] | None = None,
        deny: Sequence[Items] | None = None,
        cap: Mapping[str, int] | None = None,
        budget_ms: float | None = None,
        beam: int | None = None,
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
            helper: [users, I], a helper's score of each item for each user; scores are then
                (1 - helper_weight) log p + helper_weight log softmax(helper), see `decoding.helper`.
            helper_weight: from 0 to 1; D3's alpha (arXiv 2406.14900) is 1 - helper_weight.
            allow: for each user the only items to return, or None: all.
            deny: for each user further items to leave out.
            cap: at most so many items of a list have one value of a column of the item table.
            budget_ms: most milliseconds for a batch of users; None: no bound.
            beam: beginnings kept a level; None: the exact search.

        Raises:
            InputError: k, beam, budget or a cap below 1, a budget_ms below 0, no such column, or a helper or a weight
                that cannot be used.
        """
        counted = {"k": k, "beam": 1 if beam is None else beam, "budget": budget}
        for name, value in (counted | {f"cap {column}": most for column, most in (cap or {}).items()}).items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if budget_ms is not None and not budget_ms >= 0:
            raise InputError(f"budget_ms must be at least 0, not {budget_ms}")
        caps = [Cap(self.catalogue.groups(column), most) for column, most in (cap or {}).items()]
        if not 0 <= helper_weight <= 1:
            raise InputError(f"helper_weight {helper_weight}: must be from 0 to 1")
        if helper is not None and len(helper) != len(histories):
            raise InputError(f"helper: scores of {len(helper)} users for {len(histories)} histories")
        excluded = _left_out(histories, keep, keep_history, deny)
        nobody = np.empty(0, dtype=np.int64)
        empty = SearchResult(
            np.empty((0, k), np.int32), np.empty((0, k)), nobody.astype(bool), nobody, nobody.astype(float)
        )
        parts = [empty]
        batches = _batches(histories)
        for batch in batches:
            result = search(
                self.model,
                self.catalogue,
                [self._shown(histories[user]) for user in batch],
                k,
                softmax=self.softmax,
                excluded=[excluded[user] for user in batch],
                allowed=None if allow is None else [allow[user] for user in batch],
                caps=caps,
                budget=budget,
                budget_ms=budget_ms,
                beam=beam,
                batching=self.batching,
                adjust=None
                if helper is None
                else mixed_with(self.catalogue.trie, [helper[user] for user in batch], helper_weight),
            )
            parts.append(result)
            if progress:
                progress(len(batch))
        return _reordered(parts, batches)

    def guided(
        self,
        histories: Sequence[Items],
        k: int,
        *,
        gamma: float,
        prior: str = "counts",
        top: int = TOP,
        **options: Any,
    ) -> GuidedResult:
        """Find the `top` most likely items after each history and order them by log p + gamma x effect.

        Args:
            histories: as for `search`.
            k: items wanted, at least 1.
            gamma: weight of the effect log p - log prior, 0 or more.
            prior: "counts", "trained" or "counterfactual" (`prior`).
            top: most likely items that are ordered anew; at least k are.
            options: further arguments of `search`, but a helper's, which orders by other scores than log p.

        Raises:
            InputError: k or top below 1, a gamma below 0, a helper, or a prior that the RUN does not have.
        """
        if options.get("helper") is not None:
            raise InputError("a gamma orders by log p, and a helper's scores are mixed into it; give one of them")
        if top < 1:
            raise InputError(f"top must be at least 1, not {top}")
        expected = self.prior(prior)
        found = self.search(histories, min(max(k, top), len(self.catalogue)) if k > 0 else k, **options)
        log_p = found.scores
        if self.softmax != "catalogue":
            asked = [items[items >= 0] for items in found.items]
            log_p = np.zeros_like(found.scores)
            for row, runs in enumerate(self.log_probs(histories, asked, softmax="catalogue")):
                log_p[row, : len(asked[row])] = np.add.reduceat(runs.values, runs.starts) if len(asked[row]) else 0
        return guided(found, log_p, expected, gamma, k)

    def ungrounded(
        self,
        histories: Sequence[Items],
        k: int,
        keep: Sequence[int] | None = None,
        keep_history: bool = False,
        beams: int = BEAMS,
        grounded: int | None = None,
        *,
        deny: Sequence[Items] | None = None,
    ) -> UngroundedResult:
        """Let the model write titles freely and take the catalogue's nearest ones; see `decoding.ungrounded`.

        Args:
            histories: as for `search`, and so are `keep` and `keep_history`.
            k: items wanted, at least 1.
            keep: for each user one item that is not left out.
            keep_history: leave nothing out.
            beams: titles written for a user, from 1 to 1,000.
            grounded: best beams that take turns, from 1 (the authors' way) to `beams`; None: all.
            deny: as for `search`.

        Raises:
            InputError: k below 1, or beams or grounded out of range.
        """
        if k < 1 or beams < 1:
            raise InputError(f"k and beams must be at least 1, not {k} and {beams}")
        if beams > MOST_BEAMS:
            raise InputError(f"beams {beams}: must be at most {MOST_BEAMS:,}")
        if grounded is not None and not 1 <= grounded <= beams:
            raise InputError(f"grounded {grounded}: must be from 1 to {beams}, the beams")
        embeddings = self._stored(
            _EMBEDDINGS, lambda: {"titles": title_embeddings(self.model, self.catalogue, self.prompt)}
        )["titles"]
        excluded = _left_out(histories, keep, keep_history, deny)
        invented = np.empty((0, beams), dtype=bool)
        parts = [UngroundedResult(np.empty((0, k), np.int32), np.empty((0, k)), invented[:, 0], invented)]
        batches = _batches(histories, max(1, BATCH // beams))
        for batch in batches:
            result = ungrounded(
                self.model,
                self.catalogue,
                self.prompt,
                [self._shown(histories[user]) for user in batch],
                k,
                embeddings=embeddings,
                excluded=[excluded[user] for user in batch],
                beams=beams,
                grounded=grounded,
            )
            parts.append(result)
        return _reordered(parts, batches)

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
        for batch in _batches(histories):
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
            seed: of the orders, 0 or more.

        Raises:
            InputError: a title is not in the catalogue, the history is empty, an unknown prior or one that the RUN has
                not trained, or orders that cannot be drawn (`draw_orders`).
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
        texts = [f"<{token}>" for token in inner]  # of a model in training, whose tokenizer is elsewhere
        if self.tokenizer is not None:
            texts = token_texts(self.tokenizer, inner.tolist())
        texts += [""] * len(self.prompt.closing)
        closing = np.arange(len(tokens)) >= len(inner)
        choices = trie.choices[trie.parent[trie.path(item)]]
        return [
            TokenEffect(text, bool(ends), bool(choice), float(likely), float(usual), float(likely - usual))
            for text, ends, choice, likely, usual in zip(texts, closing, choices, log_p, expected, strict=True)
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
        # Both names ask the model the same, so there is one table for them; that of counts takes milliseconds.
        return Prior(name, self.catalogue.trie, self._made_prior() if self.folder is None else self._prior)

    @cached_property
    def _prior(self) -> NDArray[np.float64]:
        """The steps of the RUN's own prior, held because a RUN that cannot be written stores none."""
        return self._stored(_PRIOR, lambda: {"steps": self._made_prior()})["steps"]

    def _made_prior(self) -> NDArray[np.float64]:
        x_0 = self.prompt.counterfactual()
        return model_prior("counterfactual", self.model, self.catalogue, x_0, self.batching).steps

    @cached_property
    def tokenizer(self) -> Any:
        """The RUN's tokenizer, which only an explanation reads; None of a model in training."""
        return self.folder and AutoTokenizer.from_pretrained(self.folder / MODEL, local_files_only=True)

    def _check_prior(self, name: str) -> None:
        if name not in PRIORS:
            raise InputError(f"prior {name!r} is not known; choose one of {', '.join(PRIORS)}")
        if name == "trained" and not self.prior_weight:
            raise InputError(
                f"prior 'trained': {self.run_name} has trained none; train with --set prior_weight=0.1 or the like, or "
                "choose counts"
            )

    def _stored(self, name: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """Return arrays that follow from the model, the catalogue and the prompt, from the RUN if they are there."""
        if self.folder is None:
            return make()
        tokens = (
            self.catalogue.tokens,
            self.catalogue.offsets,
            np.array(self.prompt.closing),
            self.prompt.counterfactual(),
        )
        key = hashlib.sha256(self.model_key.encode())
        for array in tokens:
            key.update(np.ascontiguousarray(array).tobytes())
        return stored_arrays(self.folder / name, key.hexdigest(), make)

    def _shown(self, history: Items) -> NDArray[np.int32]:
        """Return x_h; a user without a history gets x_0, which is what the model has learnt for that."""
        if not len(history):
            return self.prompt.counterfactual()
        recent = [self.catalogue.sequence(int(item)) for item in history[-self.window :]]
        return self.prompt.factual(recent, self.catalogue.longest)


def _model_key(manifest: dict[str, Any]) -> str:
    """Return what changes when a file of the model does."""
    files = manifest["files"].items()
    return str(sorted((name, facts["sha256"]) for name, facts in files if name.startswith(f"{MODEL}/")))


def _batches(histories: Sequence[Items], size: int = BATCH) -> list[NDArray[np.int64]]:
    """Return the numbers of users that go together: histories of like length, short ones first."""
    order = np.argsort([len(history) for history in histories], kind="stable")
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def _left_out(
    histories: Sequence[Items], keep: Sequence[int] | None, keep_history: bool, deny: Sequence[Items] | None
) -> list[Items]:
    """Return for each user the items that are not recommended: those denied are not, even if they are kept."""
    excluded: list[Items] = [np.asarray(() if keep_history else history, dtype=np.int64) for history in histories]
    if keep is not None:
        excluded = [items[items != kept] for items, kept in zip(excluded, keep, strict=True)]
    if deny is not None:
        denied = [np.asarray(items, dtype=np.int64) for items in deny]
        excluded = [np.concatenate(pair) for pair in zip(excluded, denied, strict=True)]
    return excluded


def _reordered(parts: Sequence[_Result], batches: Sequence[NDArray[np.int64]]) -> _Result:
    """Join the batches' results, after one of nobody, and put them into the users' own order."""
    back = np.argsort(np.concatenate([np.empty(0, dtype=np.int64), *batches]))
    names = [field.name for field in fields(parts[0])]
    return replace(parts[0], **{name: np.concatenate([getattr(p, name) for p in parts])[back] for name in names})
