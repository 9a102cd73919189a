"""The settings of each baseline: defaults, what they mean, and the values that a search tries."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from cftrec.errors import InputError

Settings = dict[str, Any]

TRIALS = 8
"""Settings that a search tries at most for a model that is trained by steps; of the others it tries all."""


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        default: its value where neither the user nor a search says otherwise; also gives the type.
        meaning: what it does, with its unit.
        tried: the values of a search; none: it is not searched. A text must be one of them.
        least: the lowest value allowed.
        below: what a value must be lower than.
    """

    default: Any
    meaning: str
    tried: tuple[Any, ...] = ()
    least: float = 1
    below: float = math.inf


_SEQUENTIAL = {
    "factors": Setting(64, "size of the hidden states", (64, 128)),
    "blocks": Setting(2, "transformer blocks", (1, 2, 3)),
    "heads": Setting(2, "attention heads; must divide factors"),
    "length": Setting(50, "newest items of a history that are seen", (50, 100, 200)),
    "dropout": Setting(0.3, "share of hidden values that are set to 0 in training", (0.1, 0.2, 0.3, 0.5), 0, 1),
    "learning_rate": Setting(1e-3, "of Adam", (5e-4, 1e-3, 2e-3), 1e-9),
    "batch_size": Setting(16, "sequences of a step", (16, 64)),
    "epochs": Setting(200, "passes over the training events at most"),
    "patience": Setting(5, "epochs without a better validation NDCG@10 after which training stops"),
    "seed": Setting(0, "of weights, order and dropout, and of what a search draws", (), 0, 2**32),
}

MODELS: dict[str, dict[str, Setting]] = {
    "popular": {},
    "itemknn": {
        "weighting": Setting(
            "tfidf", "of the users in an item's vector: cosine weighs all alike", ("cosine", "tfidf", "bm25")
        ),
        "neighbours": Setting(100, "most similar items that are kept for each item", (20, 50, 100, 200, 500)),
    },
    "ease": {
        "regularization": Setting(
            500.0, "weight of the squared norm", (30.0, 100.0, 250.0, 500.0, 1000.0, 2000.0), 1e-9
        )
    },
    "sasrec": _SEQUENTIAL,
    "bert4rec": {**_SEQUENTIAL, "mask": Setting(0.2, "share of items masked in training", (0.15, 0.2, 0.4), 1e-9, 1)},
}
"""Model -> its settings by name."""


def read_settings(model: str, given: Mapping[str, str]) -> Settings:
    """Return given settings with their types; strings are read as the command line's.

    Raises:
        InputError: an unknown model or setting, a value of a wrong type or out of its bounds.
    """
    if model not in MODELS:
        raise InputError(f"--model {model}: unknown baseline; choose one of {', '.join(MODELS)}")
    known = MODELS[model]
    settings = {}
    for name, text in given.items():
        if name not in known:
            raise InputError(f"--set {name}: {model} has no such setting; it has {', '.join(known) or 'none'}")
        settings[name] = _read(name, known[name], text)
    if not _fits(_defaults(model) | settings):
        raise InputError("--set heads: must divide factors; give both")
    return settings


def candidates(model: str, given: Settings, trials: int | None = None) -> list[Settings]:
    """Return the settings that a search tries: the defaults, then others without repeats; what is given stays.

    Where the grid of tried values has no more cells than `trials`, all of it is tried; else cells drawn by the seed.

    Args:
        model: its name.
        given: settings that are not searched.
        trials: most settings; None: `TRIALS` for a model that is trained by steps, all for the others.
    """
    known, first = MODELS[model], _defaults(model) | given
    free = [name for name, setting in known.items() if setting.tried and name not in given]
    grid = [first | dict(zip(free, cell, strict=True)) for cell in product(*(known[name].tried for name in free))]
    if trials is None:
        trials = TRIALS if "epochs" in known else len(grid)
    others = [settings for settings in grid if settings != first and _fits(settings)]
    order = np.random.default_rng(first.get("seed", 0)).permutation(len(others))[: trials - 1]
    return [first, *(others[number] for number in order)]


def describe_settings(model: str) -> list[tuple[str, Any, str]]:
    """Return name, default and meaning of every setting, with the values that a search tries."""
    return [
        (name, setting.default, "; a search tries ".join([setting.meaning, *_tried(setting)]))
        for name, setting in MODELS[model].items()
    ]


def _tried(setting: Setting) -> list[str]:
    return [", ".join(map(str, setting.tried))] if setting.tried else []


def _defaults(model: str) -> Settings:
    return {name: setting.default for name, setting in MODELS[model].items()}


def _fits(settings: Settings) -> bool:
    """Say whether the heads divide the factors."""
    return settings.get("factors", 0) % settings.get("heads", 1) == 0


def _read(name: str, setting: Setting, text: str) -> Any:
    kind = type(setting.default)
    try:
        value = kind(text)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise InputError(f"--set {name}={text}: must be {wanted}") from error
    if kind is str and value not in setting.tried:
        raise InputError(f"--set {name}={text}: choose one of {', '.join(setting.tried)}")
    if kind is not str and not setting.least <= value < setting.below:
        bound = f" and below {setting.below:g}" if setting.below < math.inf else ""
        raise InputError(f"--set {name}={text}: must be at least {setting.least:g}{bound}")
    return value
