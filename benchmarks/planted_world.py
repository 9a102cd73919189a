"""The method where the truth is known: share of the best possible NDCG@10, and measured against true effects.

- A world with a strong effect, in which users take items again: plain fine-tuning, CFT, and plain fine-tuning under the
  catalogue softmax, equal steps; NDCG@10 on the test targets over that of the Bayes-optimal ranking, and the mean
  effect measured with the priors `counts` and `counterfactual` beside the true one. CFT erases the model's own prior,
  so `counterfactual` must be off.
- Worlds without any effect (strength 0, repeats), one a seed: CFT on each, and whether the 95 % interval of the
  measured mean effect on test targets contains 0 or lies below it.

Worlds and RUNs are kept in `--work`, and a second call goes on from there. About half an hour on two cores.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from cftrec import Dataset, Recommender
from cftrec.data.world import WorldOptions, make_world
from cftrec.evaluation import evaluate, measure_effects
from cftrec.training import load_config, train
from common import parser, plain, report

COMMON: dict[str, Any] = {"category": "movie", "seed": 1}
SET = ["nano_vocab_size=600", "nano_hidden_size=64", "nano_layers=2", "learning_rate=5e-3"]
METHODS: dict[str, dict[str, Any]] = {
    "plain": {"effect_weight": 0, "beta": 1},
    "cft": {},
    "catalogue": {"effect_weight": 0, "beta": 1, "softmax": "catalogue"},
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--work", type=Path, help="folder of worlds and RUNs; a temporary one by default")
    options.add_argument("--items", type=int, default=200)
    options.add_argument("--users", type=int, default=5000)
    options.add_argument("--strength", type=float, default=0.9)
    options.add_argument("--steps", type=int, default=3000)
    options.add_argument("--set", nargs="*", default=SET, metavar="KEY=VALUE")
    options.add_argument("--seeds", type=int, default=20, help="worlds without an effect")
    options.add_argument("--zero-steps", type=int, default=300)
    args = options.parse_args()
    with TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        given = dict(text.split("=", 1) for text in args.set)
        strong = strong_world(work, args, given)
        zero = [zero_world(work, seed, args.zero_steps, given) for seed in range(args.seeds)]
    within = sum(found["ci"][0] <= 0 for found in zero)
    report("planted_world", {"options": plain(args), "strong": strong, "zero": zero, "zero_within": within}, args.save)


def strong_world(work: Path, args: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Train every method on one world; return what each reaches and measures beside the truth."""
    options = WorldOptions(items=args.items, users=args.users, strength=args.strength, repeats=True)
    folder = work / "strong"
    if not folder.exists():
        make_world(options).save(folder)
    truth = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["world"]
    best, effect = truth["optimum"]["test"]["NDCG@10"], truth["mean_effect"]["test"]
    ranks = make_world(options).optimal_ranks(-1)
    realised = float(np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0).mean())
    found: dict[str, Any] = {"ndcg@10": best, "ndcg@10_of_the_best_ranking": realised, "effect": effect, "methods": {}}
    for name, own in METHODS.items():
        run = trained(folder, work / f"strong-{name}", COMMON | given | {"max_steps": args.steps} | own)
        recommender, dataset = Recommender.from_pretrained(run), Dataset.load(folder)
        if not (run / "evaluation.json").exists():
            evaluate(recommender, dataset, out=run, effect_targets=0, keep_history=True)
        reached = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["NDCG@10"]
        effects = {
            prior: measure_effects(recommender, dataset, prior=prior).summary["effect"]
            for prior in ("counts", "counterfactual")
        }
        found["methods"][name] = {"ndcg@10": reached, "share": reached / best, "share_realised": reached / realised}
        found["methods"][name] |= {"effect": effects}
        found["methods"][name]["effect_over_true"] = {prior: one["mean"] / effect for prior, one in effects.items()}
    return found


def zero_world(work: Path, seed: int, steps: int, given: dict[str, Any]) -> dict[str, Any]:
    """Train CFT on a world without an effect; return the measured mean effect and its interval."""
    folder = work / f"zero-{seed}"
    if not folder.exists():
        make_world(WorldOptions(items=50, users=1000, length=10, strength=0, repeats=True, seed=seed)).save(folder)
    assert pl.read_parquet(folder / "truth.parquet")["effect"].abs().max() < 1e-9
    own = {"max_steps": steps, "seed": seed}
    run = trained(folder, work / f"zero-{seed}-cft", COMMON | given | own)
    return measure_effects(Recommender.from_pretrained(run), Dataset.load(folder)).summary["effect"]


def trained(data: Path, run: Path, options: dict[str, Any]) -> Path:
    return run if run.exists() else train(data, run, load_config(None, options))


if __name__ == "__main__":
    main()
