"""What each command of the command line does: its options, a call, and what it prints."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from cftrec.data import PrepareOptions
from cftrec.data.world import WorldOptions
from cftrec.errors import InputError
from cftrec.look.view import View

if TYPE_CHECKING:  # slow to import
    from cftrec.evaluation import Evaluation


@dataclass
class Prepare:
    """Turn an interaction log into a Dataset folder: cleaned, ordered, split, and every event accounted for."""

    source: Positional[str]
    """the log: a folder or file (docs/data.md), or `installed` (ML-100K of the recbole wheel)"""
    out: Path | None = None
    """DATASET folder to make; must be free, or made of the same input with the same options, where nothing is left to do; needed unless with --describe"""  # noqa: E501
    format: str = "auto"
    """recbole, movielens, amazon, steam, lastfm, goodreads, yelp, splits (CSVs of D3, CFT, IGD and MiniOneRec), alpaca, table, or auto, which looks at the source"""  # noqa: E501
    describe: bool = False
    """say what is recognised by a look at the first lines, and write nothing"""
    options: Annotated[PrepareOptions, arg(name="")] = field(default_factory=PrepareOptions)

    def run(self) -> None:
        """Prepare, save, and say what came out; or describe."""
        from cftrec.data import SPLITS, already_prepared, prepare
        from cftrec.data.sources.describe import describe

        if self.describe:
            print(describe(self.source, self.format, self.options))
            return
        if self.out is None:
            raise InputError("--out is missing: name the DATASET folder to make, or give --describe to look first")
        if already_prepared(self.out, self.source, self.format, self.options):
            print(f"already prepared from the same input with the same options; nothing to do\n{self.out}")
            return
        dataset = prepare(self.source, self.format, self.options)
        dataset.save(self.out)
        targets = ", ".join(f"{len(dataset.targets(split)):,} {split}" for split in SPLITS)
        print(f"{len(dataset.users):,} users, {dataset.items.height:,} items, {len(dataset.events):,} events")
        print(f"targets: {targets}\n{self.out}")


@dataclass
class World:
    """Draw a planted world: a Dataset whose law of next items, best metrics and true effects are known."""

    out: Path
    """DATASET folder to make; must be free; truth.parquet in it holds every event's log p and effect"""
    options: Annotated[WorldOptions, arg(name="")] = field(default_factory=WorldOptions)

    def run(self) -> None:
        """Draw, save, and say what the best possible recommender reaches."""
        from cftrec.artefacts import refuse_if_taken
        from cftrec.data.world import make_world

        refuse_if_taken(self.out)
        truth = make_world(self.options).save(self.out)["world"]
        print(f"{self.options.users:,} users, {self.options.items:,} items, {self.options.length} events each")
        print(f"best possible on the test split: NDCG@10 {truth['optimum']['test']['NDCG@10']:.4f}, ", end="")
        print(f"HR@10 {truth['optimum']['test']['HR@10']:.4f}; true effect {truth['mean_effect']['test']:.4f} nats")
        print(self.out)


@dataclass
class Data:
    """Look at a Dataset: sizes, histories, popularity, cuts, leakage, and samples exactly as a model will see them."""

    data: Annotated[Positional[Path], arg(metavar="DATASET")]
    """DATASET folder of `cftrec prepare`; the checksum of every file is compared"""
    view: Annotated[View, arg(name="")] = field(default_factory=View)
    split: str = "train"
    """split whose samples are shown: train, validation or test"""
    samples: int = 10
    """samples to show, drawn at random"""
    seed: int = 0
    """seed of the draw"""
    html: Path | None = None
    """file to write as one self-contained page with plots; must not exist"""
    alpaca: Path | None = None
    """folder to make: all samples as the authors' Alpaca JSON, with --prompt alpaca or d3, --window and --category"""

    def run(self) -> None:
        """Print the summary and the samples; write the page."""
        from cftrec.data import Dataset
        from cftrec.data.summary import summarise
        from cftrec.look.lines import lines
        from cftrec.look.page import render_page
        from cftrec.look.samples import draw_samples

        if self.html is not None and self.html.exists():
            raise InputError(f"{self.html}: is there already; name another file or remove it first")
        dataset = Dataset.load(self.data, verify=True)
        summary = summarise(dataset)
        samples = draw_samples(dataset, self.view, split=self.split, count=self.samples, seed=self.seed)
        for line in lines(summary, samples):
            print(line)
        if self.html is not None:
            self.html.write_text(render_page(dataset, summary, samples), encoding="utf-8")
            print(self.html)
        if self.alpaca is not None:
            from cftrec.text import write_alpaca

            view = self.view
            written = write_alpaca(dataset, view.prompt, self.alpaca, category=view.category, window=view.window)
            print(f"{self.alpaca}: " + ", ".join(f"{count:,} {split}" for split, count in written.items()) + " records")


@dataclass
class Train:
    """Fine-tune a language model on a Dataset and write a RUN folder that recommends by itself."""

    data: Annotated[Positional[Path], arg(metavar="DATASET")]
    """DATASET folder of `cftrec prepare`"""
    out: Path
    """RUN folder to make; must be free; its name names the model in comparisons"""
    model: str | None = None
    """nano (1.9M parameters, from scratch; default), smollm2 (135M, offline), or a local Hugging Face folder"""
    sample: int | None = None
    """train on so many random samples (few-shot, BIGRec), drawn by the seed; left out, all"""
    preset: str | None = None
    """authors (the settings of the paper's code, for a pretrained model) or best (what the results page found best);
    --config and --set go before it"""
    config: Path | None = None
    """YAML file of options; `--set` goes before it"""
    set: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="KEY=VALUE ...")] = ()
    """options, such as effect_weight=0.2 num_train_epochs=2; listed below with defaults and units"""

    def run(self) -> None:
        """Train with a progress bar."""
        from cftrec.training import load_config, train
        from cftrec.training.bar import TrainingBar
        from cftrec.training.config import RANKED

        options = dict(_key_value(text) for group in self.set for text in group)
        named = {"model": self.model, "sample": self.sample}
        options |= {name: str(value) for name, value in named.items() if value is not None}
        config = load_config(self.config, options, self.preset)
        bar = TrainingBar(f"train {self.out.name}")
        if config.best_metric == RANKED:  # a search for each validation target, so only where it is asked for
            from cftrec.evaluation.validation import ranking_metrics

            print(train(self.data, self.out, config, [bar], ranking_metrics))
        else:
            print(train(self.data, self.out, config, [bar]))


@dataclass
class Sweep:
    """Train a grid of options, or search among them, and say which are best on the validation split."""

    data: Annotated[Positional[Path], arg(metavar="DATASET")]
    """DATASET folder of `cftrec prepare`"""
    out: Path
    """folder of the sweep: summary.json and the best RUN; the same command goes on in it"""
    vary: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="KEY=VALUES ...")]
    """what varies: effect_weight=0.05,0.1,0.2 or, with --trials, learning_rate=1e-4..1e-2:log"""
    set: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="KEY=VALUE ...")] = ()
    """options of all cells, as for `cftrec train`"""
    model: str | None = None
    """nano (default), smollm2, or a local Hugging Face folder"""
    preset: str | None = None
    """authors (the settings of the paper's code, for a pretrained model) or best (what the results page found best);
    --config and --set go before it"""
    config: Path | None = None
    """YAML file of options; `--set` goes before it"""
    trials: int | None = None
    """cells that a search (TPE) tries; left out, the whole grid"""
    metric: str = "eval_ndcg@10"
    """validation metric that decides: eval_ndcg@10, eval_normal (plain loss), eval_loss"""
    evaluations: int = 5
    """evaluations of a training; at each a cell worse than the median of the others stops, from the fifth cell on"""
    keep_all: bool = False
    """keep every cell's RUN, not the best one alone"""
    seed: int = 0
    """of the search"""

    def run(self) -> None:
        """Sweep and print the cells, best first."""
        from cftrec.evaluation.space import read_space
        from cftrec.evaluation.sweep import sweep

        options = dict(_key_value(text) for group in self.set for text in group)
        if self.model is not None:
            options["model"] = self.model
        summary = sweep(
            self.data,
            self.out,
            read_space([text for group in self.vary for text in group]),
            options,
            self.config,
            preset=self.preset,
            metric=self.metric,
            trials=self.trials,
            evaluations=self.evaluations,
            keep_all=self.keep_all,
            seed=self.seed,
        )
        for cell in summary["cells"]:
            value = "-" if cell["value"] is None else f"{cell['value']:.4f}"
            options_text = " ".join(f"{key}={value}" for key, value in cell["options"].items())
            print(f"{value}\t{cell['state']}\t{options_text}\t{cell.get('error', '')}".rstrip())
        if summary["best"] is not None:
            print(self.out / summary["best"]["run"])


_WAYS = ("gamma", "beam", "helper", "ungrounded", "candidates", "predictions")
"""Options of `evaluate` that choose a way to rank other than by log p."""
_READ_BY = {
    "prior": ("log p", "gamma", "beam", "helper", "ungrounded"),
    "keep_history": ("log p",),
    "sample": ("log p", "gamma", "beam", "helper", "ungrounded", "candidates"),
    "seed": ("log p", "gamma", "beam", "helper", "ungrounded", "candidates"),
    "k": ("log p", "gamma", "beam", "helper", "ungrounded", "predictions"),
    "top": ("gamma",),
    "helper_weight": ("helper",),
    "beams": ("ungrounded",),
    "grounded": ("ungrounded",),
}
"""Option of `evaluate` -> the ways to rank that read it."""


@dataclass
class Evaluate:
    """Rank the whole catalogue for every target of a split; metrics.json, slices.json and ranks.parquet go into RUN.

    Also effects.json and effects.parquet: how much likelier the history makes the true next title than the prior does.
    With --candidates it ranks within lists instead, and writes candidates.json and candidate_ranks.parquet alone. With
    --gamma, --beam, --helper or --ungrounded it ranks in another way, and the files go into a folder of that name in
    the RUN.

    With --predictions the lists are those of a table, and the folder they are written to is a new one.
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """RUN folder of `cftrec train`; with --predictions, folder to make, whose name names the system in comparisons"""
    data: Annotated[Positional[Path], arg(metavar="DATASET")]
    """DATASET folder whose users are asked"""
    split: str = "test"
    """test (files go into RUN), validation or train (files go into RUN/SPLIT)"""
    k: Annotated[int, arg(aliases=["-k"])] = 20
    """length of the lists, at least 20"""
    prior: str = "counts"
    """what the history's effect is measured against: counts (training frequencies, smoothed), trained (the model's own
    answer to the prompt without history, where prior_weight trained it), or counterfactual (the same of any RUN)"""
    keep_history: bool = False
    """also rank what is in the history, for logs and worlds in which users take items again"""
    sample: int | None = None
    """rank so many random targets of the split only; left out, all"""
    seed: int = 0
    """seed of --sample and --candidates"""
    candidates: Annotated[str | None, arg(metavar="FILE|N")] = None
    """rank within candidates instead: those of a table with columns user and item, or N, the target and N - 1 random
    items that the user does not have (LLaRA: 20); the files of the whole catalogue stay as they are"""
    gamma: float = 0.0
    """above 0: order the likeliest --top titles by log p + gamma x (log p - log prior), the prior that of --prior"""
    top: int = 200
    """likeliest titles that --gamma orders anew"""
    beam: int | None = None
    """keep so many beginnings a level, as beam search does, instead of the exact search"""
    helper: Annotated[Path | None, arg(metavar="FILE")] = None
    """another model's scores to mix in (D3): a table with columns user, item, score, or a baseline's ranks.parquet"""
    helper_weight: float = 0.5
    """w: lists are ordered by (1 - w) log p + w log softmax(helper's scores); D3's alpha is 1 - w"""
    ungrounded: bool = False
    """let the model write titles freely and take the nearest ones of the catalogue, as BIGRec evaluates"""
    beams: int = 4
    """titles that the model writes with --ungrounded"""
    grounded: int | None = None
    """best ones of them that take turns in finding nearest titles, 1 as the authors; left out, all"""
    predictions: Path | None = None
    """any system's lists: CSV or Parquet, columns user, item, rank (from 1); optional: history_length, score"""

    def run(self) -> None:
        """Evaluate with a progress bar and print the metrics with their 95 % intervals."""
        self._refuse_what_is_not_read()
        if self.predictions is not None:
            from cftrec.evaluation.predictions import evaluate_predictions

            _print_evaluation(
                evaluate_predictions(self.run_folder, self.data, self.predictions, self.split, self.k), self.run_folder
            )
            return
        from cftrec.data import Dataset
        from cftrec.recommender import Recommender

        dataset = Dataset.load(self.data)
        recommender = Recommender.from_pretrained(self.run_folder)
        out = self.run_folder if self.split == "test" else self.run_folder / self.split
        if self.candidates is None:
            way = self._way(recommender, dataset)
            self._rank_catalogue(recommender, dataset, way, out if way is None else out / way.name)
        else:
            self._rank_candidates(recommender, dataset, self.candidates)
            print(out)

    def _refuse_what_is_not_read(self) -> None:
        given = {name: getattr(self, name) not in (None, False, 0.0) for name in _WAYS}
        chosen = [name for name, is_given in given.items() if is_given]
        if len(chosen) > 1:
            raise InputError(f"{_flags(chosen)} are ways to rank; choose one")
        way = chosen[0] if chosen else "log p"
        for name, ways in _READ_BY.items():
            if way not in ways and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                among = [one for one in ways if one != "log p"]
                hint = f"goes with {_flags(among, 'or')}" if way == "log p" else f"is not read with {_flags([way])}"
                raise InputError(f"{_flags([name])} {hint}; leave it out")

    def _way(self, recommender: Any, dataset: Any) -> Any:
        from cftrec.evaluation import ways
        from cftrec.evaluation.cases import split_targets

        if self.gamma:
            return ways.by_effect(recommender, self.gamma, self.prior, self.top)
        if self.beam is not None:
            return ways.by_beam(recommender, self.beam)
        if self.helper is not None:
            positions = split_targets(dataset, self.split, self.sample, self.seed)
            return ways.with_helper(recommender, self.helper, self.helper_weight, dataset, positions)
        return ways.ungrounded(recommender, self.beams, self.grounded) if self.ungrounded else None

    def _rank_catalogue(self, recommender: Any, dataset: Any, way: Any, out: Path) -> None:
        from cftrec.evaluation import evaluate
        from cftrec.terminal import progress_bar

        with progress_bar(f"evaluate {recommender.run_name}") as advance:
            result = evaluate(
                recommender,
                dataset,
                self.split,
                self.k,
                self.run_folder,
                advance,
                prior=self.prior,
                keep_history=self.keep_history,
                sample=self.sample,
                seed=self.seed,
                way=way,
            )
        unknown = {name: result.facts[f"unknown_{name}"] for name in ("targets", "history_items")}
        if any(unknown.values()):
            counts = " and ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in unknown.items())
            print(f"cftrec: the RUN does not know {counts}; unknown targets count as misses", file=sys.stderr)
        _print_evaluation(result, out)

    def _rank_candidates(self, recommender: Any, dataset: Any, candidates: str) -> None:
        from cftrec.evaluation import rank_candidates
        from cftrec.terminal import progress_bar

        lists = int(candidates) if candidates.lstrip("-").isdecimal() else Path(candidates)
        with progress_bar(f"rank candidates {recommender.run_name}") as advance:
            result = rank_candidates(
                recommender, dataset, lists, self.split, self.run_folder, advance, sample=self.sample, seed=self.seed
            )
        facts = result.summary
        (low, high), mean = facts["HR@1_ci"], facts["candidates"]["mean"]
        print(f"HR@1     {facts['HR@1']:.4f} (95 % interval {low:.4f} to {high:.4f}; by chance {facts['chance']:.4f})")
        missing = facts["targets_not_among_candidates"]
        print(f"{facts['targets']:,} targets, {mean:,.1f} candidates each; {missing:,} targets are none of theirs")


@dataclass
class Baseline:
    """Train a baseline on a Dataset, its settings searched on validation, and rank the whole catalogue with it."""

    data: Annotated[Positional[Path], arg(metavar="DATASET")]
    """DATASET folder of `cftrec prepare`"""
    model: str
    """popular, itemknn, ease, sasrec or bert4rec, all of RecTools"""
    out: Path
    """folder to make, for `cftrec compare`; must be free; its name names the baseline in comparisons"""
    set: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="KEY=VALUE ...")] = ()
    """settings that are not searched, such as length=200 dropout=0.3; listed below with defaults and units"""
    trials: int | None = None
    """settings tried at most, judged by validation NDCG@10, the defaults first; 1 searches nothing; unset: 8 for sasrec
    and bert4rec, all for the others, which are trained at once"""
    split: str = "test"
    """whose targets are ranked: test, validation or train"""
    k: Annotated[int, arg(aliases=["-k"])] = 20
    """length of the lists, at least 20"""

    def run(self) -> None:
        """Search, train and rank with progress bars, and print the settings and the metrics."""
        from cftrec.baselines import baseline
        from cftrec.terminal import progress_bar

        given = dict(_key_value(text) for group in self.set for text in group)
        result = baseline(
            self.data, self.out, self.model, given, self.split, self.k, trials=self.trials, bar=progress_bar
        )
        _print_evaluation(result, self.out)


@dataclass
class Compare:
    """Compare evaluated RUNs with each other and with popularity: summary.json and one self-contained report.html."""

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME=]RUN ...")]
    """folders of evaluated RUNs, of `cftrec baseline` and of `cftrec evaluate --predictions`, each under its own name
    or NAME, and folders in RUNs such as RUN/gamma-0.5-counts; RUNs of one NAME are seeds of one method: one row"""
    out: Path = Path("comparison")
    """folder to make; must be free"""
    group_seeds: bool = False
    """RUNs whose configs differ in `seed` and `data_seed` alone are seeds of one method, cft-1 and cft-2 of cft"""

    def run(self) -> None:
        """Compare with a progress bar and print the headline."""
        from cftrec.evaluation import compare
        from cftrec.evaluation.methods import split_name
        from cftrec.terminal import progress_bar

        names, runs = zip(*map(split_name, self.runs), strict=True) if self.runs else ((), ())
        with progress_bar("compare") as advance:
            summary = compare(runs, self.out, names=names, group_seeds=self.group_seeds, progress=advance)
        print(summary["headline"])
        print(self.out / "report.html")


@dataclass
class Recommend:
    """Print the most likely next titles after a history with their scores, or write those of many users to a file."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """RUN folder of `cftrec train`"""
    history: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="TITLE ...")] = ()
    """titles of the catalogue, oldest first"""
    users: Annotated[Path | None, arg(metavar="FILE")] = None
    """instead of a history: a table (Parquet, CSV, JSON lines) with columns user and history (lists of item ids or
    titles), or user and item (an event a row, in order), or a DATASET folder"""
    out: Annotated[Path | None, arg(metavar="FILE.parquet")] = None
    """with --users: the file to write, a row a user; must be free; an interrupted command goes on when given again"""
    k: Annotated[int, arg(aliases=["-k"])] = 10
    """items wanted"""
    keep_history: bool = False
    """also recommend what is in the history"""
    allow: Path | None = None
    """text file of the only items to recommend, an id or a title a line"""
    deny: Path | None = None
    """text file of items not to recommend, an id or a title a line"""
    cap: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="COLUMN=N ...")] = ()
    """at most N items of one value of a column of the item table, such as genre=2"""
    budget: int = 2000
    """most beginnings of titles looked into before the search ends without being exact"""
    budget_ms: float | None = None
    """most milliseconds before the search ends so, loading the RUN not counted; left out, no bound"""
    beam: int | None = None
    """keep so many beginnings a level, as beam search does; left out, the exact search"""
    gamma: float = 0.0
    """above 0: order the likeliest --top titles by log p + gamma x effect, effect = log p - log prior (nats)"""
    prior: str = "counts"
    """of the effect: counts (training frequencies, smoothed), trained or counterfactual (as for `cftrec evaluate`)"""
    top: int = 200
    """likeliest titles that --gamma orders anew"""
    ungrounded: bool = False
    """let the model write titles freely and take the catalogue's nearest (BIGRec); scores are minus L2 distances"""
    beams: int = 4
    """titles that the model writes with --ungrounded"""
    grounded: int | None = None
    """best ones of them that take turns in finding nearest titles, 1 as the authors; left out, all"""

    def run(self) -> None:
        """Print rank, score, title and item id, with --gamma also log p and effect, separated by tabs."""
        from cftrec.recommender import Recommender

        if (self.users is None) == (not self.history):
            raise InputError("recommend needs either --history TITLE ... or --users FILE --out FILE.parquet")
        if (self.users is None) != (self.out is None):
            raise InputError("--users FILE and --out FILE.parquet go together; give both or neither")
        if self.ungrounded and (self.gamma or self.users):
            raise InputError("--ungrounded goes with --history alone, without --gamma and --users; leave one out")
        rules = ("allow", "deny", "cap", "budget", "budget_ms", "beam")
        unread = {} if self.gamma else dict.fromkeys(("prior", "top"), "without --gamma")
        if self.ungrounded:
            unread |= dict.fromkeys(rules, "with --ungrounded")
        else:
            unread |= dict.fromkeys(("beams", "grounded"), "without --ungrounded")
        for name, when in unread.items():
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InputError(f"{_flags([name])} is not read {when}; leave it out")
        recommender = Recommender.from_pretrained(self.run_folder)
        titles = [title for group in self.history for title in group]
        if self.users is not None and self.out is not None:
            self._write(recommender, self.users, self.out)
        elif self.ungrounded:
            self._ground(recommender, titles)
        else:
            self._print(recommender, titles)

    def _rules(self) -> dict[str, Any]:
        """Return what the search is told beside the histories."""
        cap = dict(_cap(text) for group in self.cap for text in group)
        allow, deny = (None if file is None else _lines(file) for file in (self.allow, self.deny))
        return {
            "keep_history": self.keep_history,
            "allow": allow,
            "deny": deny or (),
            "cap": cap,
            "budget": self.budget,
            "budget_ms": self.budget_ms,
            "beam": self.beam,
        }

    def _hint(self) -> str:
        return "raise --budget or --budget-ms" if self.beam is None else "raise --beam, or leave it out"

    def _print(self, recommender: Any, titles: list[str]) -> None:
        (answer,) = recommender.recommend(
            [titles],
            self.k,
            gamma=self.gamma,
            prior=self.prior,
            top=self.top,
            **self._rules(),
        )
        for rank, item in enumerate(answer, 1):
            parts = f"\t{item.log_p:.4f}\t{item.effect:.4f}" if self.gamma else ""
            mark = "\tuntrained" if item.untrained else ""
            print(f"{rank}\t{item.score:.4f}\t{item.title}\t{item.item_id}{parts}{mark}")
        if not answer:
            print("cftrec: no title was found: none may be recommended, or the search ended too early", file=sys.stderr)
        elif not answer[0].exact:
            bound = f"a title not looked into could have log p {answer[0].bound:.4f}"
            print(f"cftrec: not exact, the search ended early: {bound}; {self._hint()}", file=sys.stderr)

    def _ground(self, recommender: Any, titles: list[str]) -> None:
        catalogue = recommender.catalogue
        history, k = catalogue.index_of(titles), min(self.k, len(catalogue))
        found = recommender.ungrounded(
            [history], k, keep_history=self.keep_history, beams=self.beams, grounded=self.grounded
        )
        for rank, (item, score) in enumerate(zip(found.items[0], found.scores[0], strict=True), 1):
            if item >= 0:
                print(f"{rank}\t{score:.4f}\t{catalogue.titles[item]}\t{catalogue.item_ids[item]}")
        invented = int(found.invented.sum())
        print(f"cftrec: {invented} of {self.beams} titles written are none of the catalogue", file=sys.stderr)

    def _write(self, recommender: Any, users: Path, out: Path) -> None:
        from cftrec.batch import recommend_users
        from cftrec.terminal import progress_bar

        options = self._rules()
        if self.gamma:
            options |= {"gamma": self.gamma, "prior": self.prior, "top": self.top}
        with progress_bar(f"recommend {recommender.run_name}") as advance:
            counts = recommend_users(recommender, users, out, self.k, progress=advance, **options)
        if counts["unknown"]:
            print(f"cftrec: the RUN does not know {counts['unknown']:,} entries of the histories", file=sys.stderr)
        if counts["inexact"]:
            print(f"cftrec: {counts['inexact']:,} lists are not exact; {self._hint()}", file=sys.stderr)
        before = f", {counts['resumed']:,} of them before the interruption" if counts["resumed"] else ""
        print(f"{counts['users']:,} users{before}\n{out}")


@dataclass
class Add:
    """Add new items to a RUN without training; recommendations mark what training never had to choose."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """RUN folder of `cftrec train`"""
    items: Path
    """table (CSV, Parquet, JSON lines) with columns item_id, title and the item table's others"""

    def run(self) -> None:
        """Add the items, or none, and say what is in the catalogue now."""
        from cftrec.data.sources.sheet import read_table
        from cftrec.training.add import add_items
        from cftrec.training.run import quiet_transformers

        quiet_transformers()
        items = read_table(self.items).frame
        catalogue = add_items(self.run_folder, items)
        older = int((catalogue.untrained & catalogue.trained).sum())
        print(f"items added: {items.height:,}; in the catalogue now: {len(catalogue):,}")
        if older:
            print(f"older items that a new choice, which did not exist in training, now tells from new ones: {older:,}")
        print(self.run_folder)


@dataclass
class Explain:
    """Say what a history causes: the effect on one title against a named prior, by its tokens and by the history."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """RUN folder of `cftrec train`"""
    history: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="TITLE ...")]
    """titles of the catalogue, oldest first"""
    item: Annotated[str, arg(metavar="TITLE")]
    """the title to explain"""
    prior: str = "counts"
    """what the effect is measured against: counts (training frequencies, smoothed), trained (the model's own answer
    without history, where prior_weight trained it), or counterfactual (the same of any RUN)"""
    shapley: int = 0
    """random orders of the history that Shapley values are means of; 0: none"""
    seed: int = 0
    """of the orders"""

    def run(self) -> None:
        """Print the total and both splits, in nats."""
        from cftrec.recommender import Recommender

        recommender = Recommender.from_pretrained(self.run_folder)
        titles = [title for group in self.history for title in group]
        found = recommender.explain(titles, self.item, self.prior, self.shapley, self.seed)
        print(f"{found.title}: effect {found.effect:+.4f} nats over the prior {found.prior}")
        print(f"log p {found.log_p:.4f}, log prior {found.log_prior:.4f}")
        print("\nby token (where the catalogue leaves a choice; the sum is the effect)")
        for token in found.tokens:
            if token.choice:
                print(f"{token.effect:+.4f}\t{token.text!r}" if token.text else f"{token.effect:+.4f}\tend of title")
        print(
            "\nby item of the history: log p less that without the item" + ("; Shapley value" if found.orders else "")
        )
        for item in found.history:
            share = "" if item.shapley is None else f"{item.shapley:+.4f} ± {item.shapley_error:.4f}\t"
            print(f"{item.effect:+.4f}\t{share}{item.title}")


@dataclass
class Serve:
    """Serve RUNs over HTTP, with a page to look at them; the token comes from CFTREC_TOKEN or a file."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN ...")]
    """RUN folders of `cftrec train`; the first answers requests that name none"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 is all of this machine's"""
    port: int = 8000
    """port to listen on; 0: any that is free"""
    token_file: Path | None = None
    """file with a token that requests must bear; left out, CFTREC_TOKEN, and without that no token"""
    batch: int = 32
    """histories answered at once"""
    waiting: int = 256
    """histories that may wait; beyond it requests are refused (503, Retry-After)"""
    timeout: float = 30
    """seconds until a request without an answer is refused"""

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        if importlib.util.find_spec("fastapi") is None:
            raise InputError("serving needs more packages; install them with pip install 'cftrec[serve]'")
        from cftrec.serving import serve
        from cftrec.serving.api import Limits

        if not self.runs:
            raise InputError("give at least one RUN folder")
        if self.batch < 1 or self.waiting < 1 or not self.timeout > 0:
            raise InputError("--batch, --waiting and --timeout must be above 0")
        token = os.environ.get("CFTREC_TOKEN") if self.token_file is None else self.token_file.read_text().strip()
        if token == "":
            raise InputError("the token is empty; write one into it, or leave it out")
        serve(
            self.runs,
            self.host,
            self.port,
            limits=Limits(self.batch, self.waiting, self.timeout),
            token=token,
            started=lambda address: print(f"cftrec serves on {address}", flush=True),
        )


@dataclass
class Export:
    """Write a RUN's model as a plain folder of transformers with a model card, which loads without cftrec."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """RUN folder of `cftrec train`"""
    out: Path | None = None
    """folder to make; must be free; left out, it is `export` in the RUN"""
    merge: bool = False
    """of a RUN with LoRA adapters, write the whole model, the adapters merged into it, instead of the adapters alone"""

    def run(self) -> None:
        """Export and say where."""
        from cftrec.export import export

        print(export(self.run_folder, self.out, self.merge))


@dataclass
class Demo:
    """The whole flow on MovieLens-100K: prepare, train plain and CFT models, evaluate, compare, report."""

    out: Path = Path("demo")
    """folder to make; an interrupted demo goes on in it"""

    def run(self) -> None:
        """Run all steps and say where the report is."""
        from cftrec.demo import demo

        print(demo(self.out))


def _print_evaluation(result: "Evaluation", folder: Path) -> None:
    """Print what must be known of a result on stderr, then the metrics and where they are."""
    for note in result.facts.get("notes", []):
        print(f"cftrec: {note}", file=sys.stderr)
    for name, value in result.metrics.items():
        print(f"{name:13} {value:10.4f}{_interval(result.table[0][f'{name}_ci'])}")
    if (summary := result.effects.summary)["targets"]:
        (low, high), mean = summary["effect"]["ci"], summary["effect"]["mean"]
        over = f"nats over the prior {summary['prior']}"
        print(f"effect   {mean:.4f} {over} (95 % interval {low:.4f} to {high:.4f})")
        print(summary["fade"]["sentence"])
    print(folder)


def _interval(bounds: list[float] | None) -> str:
    """Write a metric's 95 % interval, where it has one."""
    return "" if bounds is None else f"   {bounds[0]:.4f} to {bounds[1]:.4f}"


def _key_value(text: str, option: str = "--set", example: str = "effect_weight=0.2") -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"{option} {text}: write key=value, such as {example}")
    return key.strip(), value.strip()


def _cap(text: str) -> tuple[str, int]:
    column, most = _key_value(text, "--cap", "genre=2")
    if not most.isdecimal():
        raise InputError(f"--cap {text}: {most!r} is no whole number; write for example genre=2")
    return column, int(most)


def _lines(file: Path) -> list[str]:
    """Return the lines of a text file that are not blank.

    Raises:
        InputError: it is no UTF-8 text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: no UTF-8 text; write an item id or a title a line") from error
    return [line.strip() for line in lines if line.strip()]


def _flags(names: Sequence[str], word: str = "and") -> str:
    """Write options as they are typed: `--a, --b and --c`."""
    *others, last = (f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}" for name in names)
    return f"{', '.join(others)} {word} {last}" if others else last
