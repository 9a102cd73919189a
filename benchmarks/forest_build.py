"""How fast steps are laid out: tokens put in a second, on one thread, and the share of a step's time.

- collate: `StepCollator` on the samples of a step: prompts, forests, rows and tensors of both branches. Tokens put in
  are those of the naive computation, of x_h and of x_0, each with its target;
- build_forest: the one forest of the samples' x_h with their targets, given as arrays; tokens put in are theirs;
- step: forward and backward of that step (SmolLM2 in bf16 autocast, nano in fp32), which the share refers to.

Collating turns and steps alternate. About five minutes on two cores, most of it SmolLM2's steps.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cftrec.forest import build_forest
from common import Setting, add_setting, parser, plain, report
from train_step import Ours

SETTINGS = [
    {"data": "ml-100k", "prompt": "plain", "window": 20, "stride": 10},
    {"data": "games", "prompt": "alpaca", "window": 10, "stride": 1},
]


def main() -> None:
    options = parser(__doc__)
    add_setting(options)
    options.add_argument("--models", nargs="+", default=["nano", "smollm2"], help="each is timed on both settings")
    options.add_argument("--builds", type=int, default=20, help="further batches that are laid out and not trained on")
    args = options.parse_args()
    found = []
    for model in args.models:
        for setting in (known for known in SETTINGS if known["data"] != "games" or args.games.is_dir()):
            chosen = argparse.Namespace(**vars(args) | setting | {"model": model})
            found.append(setting | {"model": model} | measure(chosen))
    kept = {name: value for name, value in plain(args).items() if name not in {*SETTINGS[0], "model", "bf16"}}
    report("forest_build", {"options": kept, "settings": found}, args.save)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Time one setting: each turn lays out a batch and takes its step; then batches without steps."""
    turns = args.repeats + 1
    setting = Setting.of(args, turns + args.builds)
    collator, bf16 = setting.collator(), args.model != "nano"
    trained = Ours(setting.model, [], setting.config.effect_weight, bf16)
    batches = trained.batches
    collate: list[float] = []
    steps: list[float] = []
    for numbers in setting.steps:
        collate.append(seconds(lambda numbers=numbers: batches.append(collator(numbers))))
        if len(batches) <= turns:
            steps.append(seconds(trained.step))
    whole = [[np.concatenate([shown, y[:-1]]) for shown, _, y in setting.sequences(n)] for n in setting.steps]
    build = [seconds(lambda arrays=arrays: build_forest(arrays)) for arrays in whole]
    counts = np.array([batch["counts"].tolist() for batch in batches])
    step = statistics.median(steps[1:])
    return {
        "tokens_computed": counts[:, 1].mean(),
        "collate": rate(collate, counts[:, 2]),
        "build_forest": rate(build, [sum(map(len, arrays)) for arrays in whole]),
        "step": {"median_s": step, "precision": "bf16 autocast" if bf16 else "fp32"},
        "collate_over_step": statistics.median(collate[1:]) / step,
    }


def rate(times: list[float], tokens: Any) -> dict[str, float]:
    """Return a call's median time, and the median of tokens put in a second, over all calls but the first."""
    return {
        "median_s": statistics.median(times[1:]),
        "tokens_put_in": float(np.mean(tokens)),
        "tokens_per_s": float(np.median(np.asarray(tokens)[1:] / np.asarray(times)[1:])),
    }


def seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
