"""What is done with logs: prepare one, draw a planted one, look at one."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from cftrec.data import PrepareOptions
from cftrec.data.world import WorldOptions
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
            _write_whole(self.html, render_page(dataset, summary, samples))
            print(self.html)
        if self.alpaca is not None:
            from cftrec.text import write_alpaca

            view = self.view
            written = write_alpaca(dataset, view.prompt, self.alpaca, category=view.category, window=view.window)
            print(f"{self.alpaca}: " + ", ".join(f"{count:,} {split}" for split, count in written.items()) + " records")


def _write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all; what UTF-8 cannot hold, as of a file's name in another coding, is escaped."""
    staging = path.with_name(f".{path.name}.partial")
    try:
        staging.write_bytes(text.encode(errors="backslashreplace"))
        staging.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    finally:
        with suppress(OSError):
            staging.unlink(missing_ok=True)
