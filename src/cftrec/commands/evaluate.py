"""Measuring: RUNs, baselines and whatever else ranks, and the comparison of them."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from cftrec.commands.words import flags, key_value
from cftrec.errors import InputError

if TYPE_CHECKING:  # slow to import
    from cftrec.evaluation import Evaluation


_WAYS = ("gamma", "beam", "helper", "ungrounded", "candidates", "predictions")
"""Options of `evaluate` that choose a way to rank other than by log p."""
_READ_BY = {
    "prior": ("log p", "gamma", "beam", "helper", "ungrounded"),
    "effect_targets": ("log p", "gamma", "beam", "helper", "ungrounded"),
    "keep_history": ("log p",),
    "sample": ("log p", "gamma", "beam", "helper", "ungrounded", "candidates"),
    "seed": ("log p", "gamma", "beam", "helper", "ungrounded", "candidates"),
    "k": ("log p", "gamma", "beam", "helper", "ungrounded", "predictions"),
    "top": ("gamma",),
    "helper_weight": ("helper",),
    "helper_scale": ("helper",),
    "beams": ("ungrounded",),
    "grounded": ("ungrounded",),
}
"""Option of `evaluate` -> the ways to rank that read it."""


@dataclass
class Evaluate:
    """Rank the whole catalogue for every target of a split; metrics.json, slices.json and ranks.parquet go into RUN.

    Also effects.json and effects.parquet: how much likelier the history makes the true next title than the prior does.
    With --candidates it ranks within lists instead, and writes candidates.json and candidate_ranks.parquet alone. With
    --gamma, --beam, --helper or --ungrounded it ranks in another way, and with --sample a part of the targets: then the
    files go into a folder in the RUN whose name says so. After an interruption the same command goes on.

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
    effect_targets: int = 2000
    """targets whose effect is measured, evenly spaced over those ranked; 0: none"""
    keep_history: bool = False
    """also rank what is in the history, for logs and worlds in which users take items again"""
    sample: int | None = None
    """rank so many random targets of the split only; left out, all"""
    seed: int = 0
    """seed of --sample and --candidates N"""
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
    helper_scale: float = 1.0
    """factor of the helper's scores: 1 for logits (SASRec), more for scores that lie close together (EASE, ItemKNN)"""
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
        from cftrec.evaluation.evaluate import evaluation_folder
        from cftrec.recommender import Recommender

        dataset = Dataset.load(self.data)
        recommender = Recommender.from_pretrained(self.run_folder)
        way = self._way(recommender, dataset) if self.candidates is None else None
        out = evaluation_folder(self.run_folder, self.split, way, self.sample, self.seed)
        if self.candidates is None:
            self._rank_catalogue(recommender, dataset, way, out)
        else:
            self._rank_candidates(recommender, dataset, self.candidates)
            print(out)

    def _refuse_what_is_not_read(self) -> None:
        chosen = [name for name in _WAYS if self._is_given(name)]
        if len(chosen) > 1:
            raise InputError(f"{flags(chosen)} are ways to rank; choose one")
        way = chosen[0] if chosen else "log p"
        for name, ways in _READ_BY.items():
            if way not in ways and self._is_given(name):
                among = [one for one in ways if one != "log p"]
                hint = f"goes with {flags(among, 'or')}" if way == "log p" else f"is not read with {flags([way])}"
                raise InputError(f"{flags([name])} {hint}; leave it out")
        if self._is_given("prior") and not self.effect_targets and not self.gamma:
            raise InputError("--prior is not read with --effect-targets 0; leave one out")
        drawn = self.candidates is not None and _is_number(self.candidates)
        if self._is_given("seed") and self.sample is None and not drawn:
            raise InputError("--seed goes with --sample or --candidates N, which draw; leave it out")

    def _is_given(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).__dataclass_fields__[name].default)

    def _way(self, recommender: Any, dataset: Any) -> Any:
        from cftrec.evaluation import ways
        from cftrec.evaluation.cases import split_targets

        if self.gamma:
            return ways.by_effect(recommender, self.gamma, self.prior, self.top)
        if self.beam is not None:
            return ways.by_beam(recommender, self.beam)
        if self.helper is not None:
            positions = split_targets(dataset, self.split, self.sample, self.seed)
            weight, scale = self.helper_weight, self.helper_scale
            return ways.with_helper(recommender, self.helper, weight, scale, dataset, positions)
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
                effect_targets=self.effect_targets,
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

        lists = int(candidates) if _is_number(candidates) else Path(candidates)
        with progress_bar(f"rank candidates {recommender.run_name}") as advance:
            result = rank_candidates(
                recommender, dataset, lists, self.split, self.run_folder, advance, sample=self.sample, seed=self.seed
            )
        facts = result.summary
        sure = [*filter(None, [_within(facts["HR@1_ci"])]), f"by chance {facts['chance']:.4f}"]
        print(f"HR@1     {facts['HR@1']:.4f} ({'; '.join(sure)})")
        mean = facts["candidates"]["mean"]
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

        given = dict(key_value(text) for group in self.set for text in group)
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


def _print_evaluation(result: "Evaluation", folder: Path) -> None:
    """Print what must be known of a result on stderr, then the metrics and where they are."""
    for note in result.facts.get("notes", []):
        print(f"cftrec: {note}", file=sys.stderr)
    for name, value in result.metrics.items():
        interval = _span(result.table[0][f"{name}_ci"])
        print(f"{name:13} {value:10.4f}" + (f"   {interval}" if interval else ""))
    if (summary := result.effects.summary)["targets"]:
        mean, interval = summary["effect"]["mean"], _within(summary["effect"]["ci"])
        print(f"effect   {mean:.4f} nats over the prior {summary['prior']}" + (f" ({interval})" if interval else ""))
        print(summary["fade"]["sentence"])
    print(folder)


def _is_number(candidates: str) -> bool:
    """Say whether --candidates is a number, which may be too small, and no file."""
    return candidates.removeprefix("-").isdecimal()


def _within(bounds: list[float] | None) -> str:
    """Name a 95 % interval in a sentence; empty where there is none."""
    return f"95 % interval {_span(bounds)}" if bounds else ""


def _span(bounds: list[float] | None) -> str:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else ""
