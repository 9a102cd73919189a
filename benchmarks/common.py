"""What benchmarks share: interleaved timing, ratios of medians, and results with machine and versions."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cftrec.artefacts import package_versions, write_json
from cftrec.data import Dataset, PrepareOptions, prepare
from cftrec.forest.backbone import choose_batching
from cftrec.forest.passes import Layout
from cftrec.forest.sampler import epoch_order
from cftrec.text import Catalogue, Prompt
from cftrec.training import CFTConfig, load_config
from cftrec.training.collator import Samples, StepCollator
from cftrec.training.machine import layout_of
from cftrec.training.run import assemble, quiet_transformers

MIB = 2**20
RESULTS = Path(__file__).parent / "results"
GAMES = Path(__file__).parents[2] / "shared" / "data" / "amazon-games"
LOGS: dict[str, tuple[str, str, str]] = {
    "ml-100k": ("installed", "movielens", "movie"),
    "games": (str(GAMES), "recbole", "video game"),
}
"""Source, format and what an item is."""


def load_log(name: str, games: Path = GAMES) -> tuple[Dataset, str]:
    """Return a real log as a dataset, and what its items are."""
    source, form, category = LOGS[name]
    return prepare(str(games) if name == "games" else source, form, PrepareOptions()), category


def add_setting(options: argparse.ArgumentParser) -> None:
    """Add the options that say what is trained on what."""
    options.add_argument("--data", choices=list(LOGS), default="ml-100k")
    options.add_argument("--games", type=Path, default=GAMES, help="folder of the Amazon Video Games files")
    options.add_argument("--model", default="nano", help="nano, smollm2 or a local folder (random_model.py makes one)")
    options.add_argument("--prompt", default="plain")
    options.add_argument("--window", type=int, default=20, help="W, most items seen")
    options.add_argument("--stride", type=int, default=10, help="s, items by which a window moves")
    options.add_argument("--sampler", choices=["windows", "users", "random"], default="users")
    options.add_argument("--samples", type=int, default=64, help="samples of a step")
    options.add_argument(
        "--bf16", action="store_true", help="ours: autocast over fp32 weights; the others: bf16 weights"
    )
    options.add_argument(
        "--most-tokens",
        type=int,
        default=0,
        help="pass over steps with a longer sample, for which padded computations may need more memory than there is; "
        "shorter ones favour those (0: none)",
    )
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    options.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further options of cftrec")


@dataclass
class Setting:
    """A log, a model, and the samples of some steps."""

    data: Dataset
    config: CFTConfig
    model: Any
    tokenizer: Any
    prompt: Prompt
    catalogue: Catalogue
    samples: Samples
    steps: list[np.ndarray[Any, np.dtype[np.int64]]]
    layout: Layout

    @classmethod
    def of(cls, args: argparse.Namespace, steps: int) -> "Setting":
        """Load what the options of `add_setting` say, and draw the samples of `steps` steps."""
        quiet_transformers()
        data, category = load_log(args.data, args.games)
        options = {"model": args.model, "prompt": args.prompt, "category": category, "sampler": args.sampler}
        options |= {"window": args.window, "history_stride": args.stride}
        config = load_config(None, options | dict(text.split("=", 1) for text in args.set))
        samples = Samples(data, "train", config.window, config.history_stride)
        order = epoch_order(samples.groups(args.sampler), seed=0, epoch=0)
        drawn = (order[begin : begin + args.samples] for begin in range(0, len(order), args.samples))
        model, *rest = assemble(data, config)
        model.to(args.device)
        choose_batching(model, "forest", config.attention)
        config.bf16 = args.bf16
        setting = cls(data, config, model, *rest, samples, [], layout_of(model, config, forest=True))
        fitting = (step for step in drawn if not args.most_tokens or setting.longest(step) <= args.most_tokens)
        return replace(setting, steps=list(islice(fitting, steps)))

    def longest(self, step: np.ndarray[Any, np.dtype[np.int64]]) -> int:
        """Return the tokens of a step's longest sample, history and target."""
        return max(len(shown) + len(target) for shown, _, target in self.sequences(step))

    def collator(self, counterfactual: bool = True, **options: Any) -> StepCollator:
        """Return what makes batches of samples; `options` go before the config's."""
        config = self.config
        chosen = {"softmax": config.softmax, "weighting": config.weighting, "weighted_terms": config.weighted_terms}
        return StepCollator(
            self.data,
            self.samples,
            self.prompt,
            self.catalogue,
            beta=config.beta,
            counterfactual=counterfactual,
            layout=self.layout,
            **chosen | options,
        )

    def sequences(self, step: np.ndarray[Any, np.dtype[np.int64]]) -> list[tuple[Any, Any, Any]]:
        """Return (x_h, x_0, y) of each sample of a step, as token arrays."""
        found = []
        for begin, end in zip(self.samples.starts[step], self.samples.positions[step], strict=True):
            seen = [self.catalogue.sequence(item) for item in self.data.events[begin:end]]
            shown = self.prompt.factual(seen, self.catalogue.longest)
            found.append((shown, self.prompt.counterfactual(), self.catalogue.sequence(self.data.events[end])))
        return found


def interleaved(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Time the sides in turn, A B C A B C ...; seconds of each call. Call every side once before, to warm it up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            finish()
            begin = time.perf_counter()
            call()
            finish()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def finish() -> None:
    """Wait until a GPU, where there is one, has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes(call: Callable[[], Any], device: str = "cpu") -> int:
    """Return the most bytes that a call holds at a time beyond what is there before it.

    On the CPU read off every allocation and release of torch's allocator (the profiler's record of them, which also
    holds what an operator allocates inside).
    """
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = sorted(
        (event.start_ns(), event.nbytes())
        for event in record.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    held = most = 0
    for _, size in events:
        held += size
        most = max(most, held)
    return most


def plain(args: argparse.Namespace) -> dict[str, Any]:
    """Return options as what JSON knows; paths of this machine are left out, of a model's folder all but its name."""
    known = {name: value for name, value in vars(args).items() if not isinstance(value, Path)}
    return known | ({"model": Path(args.model).name} if "model" in known else {})


def summarise(seconds: dict[str, list[float]], base: str) -> dict[str, Any]:
    """Return each side's median and spread, and the median over turns of its time over the base's."""
    return {
        name: {
            "median_s": statistics.median(times),
            "min_s": min(times),
            "max_s": max(times),
            f"over_{base}": statistics.median(a / b for a, b in zip(times, seconds[base], strict=True)),
        }
        for name, times in seconds.items()
    }


def setting_name(benchmark: str, args: argparse.Namespace) -> str:
    """Return the name of a benchmark's result in a setting."""
    model = Path(args.model).name
    name = f"{benchmark}-{args.data}-{model}-{args.prompt}-w{args.window}s{args.stride}-{args.sampler}"
    return name + ("-bf16" if args.bf16 else "") + ("" if args.device == "cpu" else f"-{args.device}")


def machine() -> dict[str, Any]:
    """Say what the numbers were measured on."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    facts = {"cpu": model, "threads": torch.get_num_threads(), "python": platform.python_version()}
    return facts | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def report(name: str, result: dict[str, Any], save: bool) -> None:
    """Print a result, and with `save` keep it under `benchmarks/results/`."""
    whole = {"benchmark": name, "machine": machine(), "packages": package_versions()} | result
    print(json.dumps(whole, indent=2))
    if save:
        RESULTS.mkdir(exist_ok=True)
        write_json(RESULTS / f"{name}.json", whole)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--repeats", type=int, default=5, help="counted turns")
    made.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    return made
