"""The main job in one call: MovieLens-100K to two fine-tuned recommenders, compared with popularity in a report."""

import shutil
from pathlib import Path
from typing import Any

from cftrec.artefacts import read_json, refuse_if_taken, write_json
from cftrec.data import Dataset, PrepareOptions, prepare
from cftrec.errors import InputError
from cftrec.evaluation import compare, evaluate
from cftrec.recommender import Recommender
from cftrec.terminal import progress_bar
from cftrec.training import load_config, train
from cftrec.training.bar import TrainingBar

COMMON: dict[str, Any] = {
    "category": "movie",
    "seed": 1,
    "max_steps": 3000,
    "nano_hidden_size": 64,  # a small log; the smaller model leaves time for more steps
    "nano_layers": 2,
    "window": 50,
    "history_stride": 25,
}
"""Options of both models: one seed, equal steps, the same samples in the same order."""
MODELS: dict[str, dict[str, Any]] = {"plain": {"effect_weight": 0, "beta": 1}, "cft": {}}
"""What differs: plain fine-tuning has no effect term and weighs all tokens alike; cft has the defaults."""
EFFECT_TARGETS = 300  # users whose log p by token position is measured
_MARK = "demo.json"


def demo(out: Path) -> Path:
    """Prepare ML-100K, train `plain` and `cft`, evaluate both on all leave-one-out users, compare them with `popular`.

    Args:
        out: folder of everything: `dataset/`, `plain/`, `cft/`, `comparison/`, and copies of `report.html` and
            `summary.json`. Parts that an interrupted demo finished are kept.

    Returns:
        The report.

    Raises:
        InputError: `out` holds something else, or the recbole package, which carries the log, is not installed.
    """
    _claim(out)
    dataset, comparison = out / "dataset", out / "comparison"
    if not dataset.exists():
        prepare("installed", "movielens", PrepareOptions()).save(dataset)
    for name, options in MODELS.items():
        if not (out / name).exists():
            with TrainingBar(f"train {name}") as bar:
                train(dataset, out / name, load_config(None, COMMON | options), [bar])
        if not (out / name / "evaluation.json").exists():
            with progress_bar(f"evaluate {name}") as advance:
                recommender = Recommender.from_pretrained(out / name)
                evaluate(
                    recommender, Dataset.load(dataset), out=out / name, progress=advance, effect_targets=EFFECT_TARGETS
                )
    if not comparison.exists():
        compare([out / name for name in MODELS], comparison)
    for name in ("summary.json", "report.html"):
        shutil.copyfile(comparison / name, out / name)
    print(read_json(out / "summary.json")["headline"])
    return out / "report.html"


def _claim(out: Path) -> None:
    """Mark a free folder as this demo's; refuse one that holds anything else."""
    settings = {"common": COMMON, "models": MODELS}
    mark = out / _MARK
    if not mark.exists():
        refuse_if_taken(out)
        out.mkdir(parents=True, exist_ok=True)
        write_json(mark, settings)
    elif read_json(mark) != settings:
        raise InputError(f"{out}: holds a demo of another version of cftrec; name another folder or remove it first")
