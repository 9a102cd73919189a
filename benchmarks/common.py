"""What benchmarks share: interleaved timing, ratios of medians, and results with machine and versions."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cftrec.artefacts import package_versions, write_json
from cftrec.data import Dataset, PrepareOptions, prepare

RESULTS = Path(__file__).parent / "results"
GAMES = Path(__file__).parents[2] / "shared" / "data" / "amazon-games"
LOGS: dict[str, tuple[str, str, str]] = {
    "ml-100k": ("installed", "movielens", "movie"),
    "games": (str(GAMES), "recbole", "video game"),
}


def load_log(name: str) -> tuple[Dataset, str]:
    """Return a real log as a dataset, and what its items are."""
    source, form, category = LOGS[name]
    return prepare(source, form, PrepareOptions()), category


def interleaved(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Time the sides in turn, A B C A B C ..., after one turn that does not count; seconds of each call."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, call in sides.items():
            begin = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


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


def machine() -> dict[str, Any]:
    """Say what the numbers were measured on."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    return {"cpu": model, "threads": torch.get_num_threads(), "python": platform.python_version()}


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
