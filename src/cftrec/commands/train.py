"""Training: one RUN, or many of a search."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from cftrec.commands.words import key_value


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
        from cftrec.training.config import RANKED, refuse_idle

        options = dict(key_value(text) for group in self.set for text in group)
        named = {"model": self.model, "sample": self.sample}
        options |= {name: str(value) for name, value in named.items() if value is not None}
        config = load_config(self.config, options, self.preset)
        refuse_idle(config, options)
        measure = None
        if config.best_metric == RANKED:  # a search for each validation target, so only where it is asked for
            from cftrec.evaluation.validation import ranking_metrics

            measure = ranking_metrics
        with TrainingBar(f"train {self.out.name}") as bar:
            run = train(self.data, self.out, config, [bar], measure)
        if config.process_index == 0:
            print(run)


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

        options = dict(key_value(text) for group in self.set for text in group)
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
