"""The command line: parse, call, print. Exit code 0 on success, 2 on bad input with one line on stderr."""

import contextlib
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from cftrec.data import PrepareOptions
from cftrec.errors import InputError
from cftrec.look.view import View


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


@dataclass
class Train:
    """Fine-tune a language model on a Dataset and write a RUN folder that recommends by itself."""

    data: Annotated[Positional[Path], arg(metavar="DATASET")]
    """DATASET folder of `cftrec prepare`"""
    out: Path
    """RUN folder to make; must be free; its name names the model in comparisons"""
    model: str | None = None
    """nano (1.9M parameters, from scratch; default), smollm2 (135M, offline), or a local Hugging Face folder"""
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
        if self.model is not None:
            options["model"] = self.model
        config = load_config(self.config, options)
        bar = TrainingBar(f"train {self.out.name}")
        if config.best_metric == RANKED:  # a search for each validation target, so only where it is asked for
            from cftrec.evaluation.validation import ranking_metrics

            print(train(self.data, self.out, config, [bar], ranking_metrics))
        else:
            print(train(self.data, self.out, config, [bar]))


@dataclass
class Evaluate:
    """Rank the whole catalogue for every target of a split; writes metrics.json and ranks.parquet into the RUN."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """RUN folder of `cftrec train`"""
    data: Annotated[Positional[Path], arg(metavar="DATASET")]
    """DATASET folder whose users are asked"""
    split: str = "test"
    """test (files go into RUN), validation or train (files go into RUN/SPLIT)"""
    k: Annotated[int, arg(aliases=["-k"])] = 20
    """length of the lists, at least 20"""

    def run(self) -> None:
        """Evaluate with a progress bar and print the metrics."""
        from cftrec.data import Dataset
        from cftrec.evaluation import evaluate
        from cftrec.recommender import Recommender
        from cftrec.terminal import progress_bar

        dataset = Dataset.load(self.data)
        recommender = Recommender.from_pretrained(self.run_folder)
        with progress_bar(f"evaluate {recommender.run_name}") as advance:
            result = evaluate(recommender, dataset, self.split, self.k, self.run_folder, advance)
        unknown = {name: result.facts[f"unknown_{name}"] for name in ("targets", "history_items")}
        if any(unknown.values()):
            counts = " and ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in unknown.items())
            print(f"cftrec: the RUN does not know {counts}; unknown targets count as misses", file=sys.stderr)
        for name, value in result.metrics.items():
            print(f"{name:8} {value:.4f}")
        print(self.run_folder if self.split == "test" else self.run_folder / self.split)


@dataclass
class Compare:
    """Compare evaluated RUNs with each other and with popularity: summary.json and one self-contained report.html."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN ...")]
    """evaluated RUN folders"""
    out: Path = Path("comparison")
    """folder to make; must be free"""

    def run(self) -> None:
        """Compare and print the headline."""
        from cftrec.evaluation import compare

        print(compare(self.runs, self.out)["headline"])
        print(self.out / "report.html")


@dataclass
class Recommend:
    """Print the most likely next titles after a history, each with log p(title | history)."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """RUN folder of `cftrec train`"""
    history: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="TITLE ...")]
    """titles of the catalogue, oldest first"""
    k: Annotated[int, arg(aliases=["-k"])] = 10
    """items wanted"""
    keep_history: bool = False
    """also recommend what is in the history"""
    budget: int = 2000
    """most beginnings of titles looked into before the search ends without being exact"""

    def run(self) -> None:
        """Print rank, score, title and item id, separated by tabs."""
        from cftrec.recommender import Recommender

        recommender = Recommender.from_pretrained(self.run_folder)
        titles = [title for group in self.history for title in group]
        (answer,) = recommender.recommend([titles], self.k, keep_history=self.keep_history, budget=self.budget)
        for rank, item in enumerate(answer, 1):
            print(f"{rank}\t{item.score:.4f}\t{item.title}\t{item.item_id}")
        if not all(item.exact for item in answer):
            print("cftrec: not exact, the budget is spent; raise --budget", file=sys.stderr)


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


_ABOUT = "Recommend with a language model: from an interaction log to a trained, evaluated recommender."
_COMMANDS: dict[str, Callable[..., Any]] = {
    "prepare": Prepare,
    "train": Train,
    "evaluate": Evaluate,
    "compare": Compare,
    "recommend": Recommend,
    "export": Export,
    "data": Data,
    "demo": Demo,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; the entry point of `cftrec`."""
    # Threads that never spin wake up late, which a small model's step feels; where other processes take cores away,
    # threads that spin for long slow training several times over. This many turns are some microseconds.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _parse(arguments).run()
        sys.stdout.flush()
    except InputError as error:
        sys.exit(_fail(str(error), 2))
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(_fail(f"{error.filename}: {error.strerror}", 2))
    except KeyboardInterrupt:
        sys.exit(
            _fail("interrupted; nothing half written stays, and the same command goes on from what is finished", 130)
        )


def _fail(message: str, code: int) -> int:
    print(f"cftrec: {' '.join(message.split())}", file=sys.stderr)
    return code


def _parse(arguments: list[str]) -> Prepare | Data | Train | Evaluate | Compare | Recommend | Export | Demo:
    """Parse with tyro; its boxed errors become one line."""
    messages = io.StringIO()
    wanted = {"-h", "--help"} & set(arguments)
    try:
        with contextlib.redirect_stderr(messages), contextlib.nullcontext() if wanted else _unwrapped():
            return tyro.extras.subcommand_cli_from_dict(
                _COMMANDS, prog="cftrec", description=_ABOUT, args=arguments, config=(OmitArgPrefixes,)
            )
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise InputError(_one_line(messages.getvalue(), arguments)) from None
        if arguments[0] == "train":
            _print_options()
        raise


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Let tyro write lines of any length, for what it writes is read again."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _print_options() -> None:
    """Print what `--set` and a config file may hold, with defaults and units."""
    from cftrec.training.config import describe_options

    print("options for --set KEY=VALUE and --config; those of transformers.TrainingArguments work too:")
    width = shutil.get_terminal_size().columns
    for name, default, meaning in describe_options():
        text = f"{meaning} (default: {default})"
        print(textwrap.fill(f"{name}  {text}", width, initial_indent="  ", subsequent_indent=" " * 10))


def _one_line(box: str, arguments: list[str]) -> str:
    """Take the message out of tyro's box, and add the known options where one is unknown."""
    lines = [line.strip("│╭╰╮╯| ") for line in box.splitlines()[1:]]
    # Rules of "─", or of "-" where the terminal knows no other, stand around the message.
    blocks = [list(block) for rule, block in groupby(lines, lambda line: not line.strip("─-+")) if not rule]
    text = " ".join(" ".join(blocks[0] if blocks else lines).split())
    command = arguments[0] if arguments and arguments[0] in _COMMANDS else ""
    if text.startswith("Unrecognized"):
        known = sorted(_options(command)) if command else list(_COMMANDS)
        text += f"; known are {', '.join(known)}"
    return f"{text} (see `{' '.join(['cftrec', command, '--help']).replace('  ', ' ')}`)"


def _options(command: str) -> set[str]:
    """Return the options that a command's help lists."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit), _unwrapped():
        tyro.extras.subcommand_cli_from_dict(
            _COMMANDS, prog="cftrec", args=[command, "--help"], config=(OmitArgPrefixes,)
        )
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())))


def _key_value(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"--set {text}: write key=value, such as effect_weight=0.2")
    return key.strip(), value.strip()


if __name__ == "__main__":
    main()
