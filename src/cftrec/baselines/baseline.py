"""From a Dataset folder to a baseline's folder of predictions: search settings, train, rank, write."""

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cftrec.artefacts import MANIFEST, read_json, refuse_if_taken, refuse_unspellable, sha256, write_json
from cftrec.baselines.settings import Settings, candidates, read_settings
from cftrec.data.dataset import Dataset
from cftrec.errors import InputError
from cftrec.evaluation.cases import split_targets
from cftrec.evaluation.evaluate import Evaluation, Progress, evaluate, list_length
from cftrec.evaluation.predictions import save_predictions
from cftrec.evaluation.verdict import POPULAR

Bar = Callable[[str], AbstractContextManager[Progress]]


def baseline(
    data: Path,
    out: Path,
    model: str,
    given: Mapping[str, str],
    split: str = "test",
    k: int = 20,
    *,
    trials: int | None = None,
    bar: Bar,
) -> Evaluation:
    """Train a baseline on a Dataset's training events, rank a split's targets, and write a folder of predictions.

    Settings that are not given are searched: each trial trains on the training events and is judged by NDCG@10 of the
    validation targets. Histories are those that a RUN sees: all events before the target, of whatever split. Trials
    that an interrupted search finished are kept in a hidden file beside `out`, and the same call goes on from there; if
    the best is one of them, it is trained again, from the same seed to the same weights.

    Args:
        data: a Dataset folder.
        out: the folder to make; its name names the baseline in comparisons.
        model: popular, itemknn, ease, sasrec or bert4rec.
        given: settings that are not searched, as text (`settings.MODELS`).
        split: whose targets are ranked: "train", "validation" or "test".
        k: length of the lists, at least 20.
        trials: settings tried at most, the defaults first; 1: no search; None: see `settings.candidates`.
        bar: makes a progress bar of a description.

    Returns:
        The evaluation.

    Raises:
        InputError: RecTools is missing, `out` is taken, the dataset, a setting or an option cannot be used, or an
            interrupted search with other ones is in the way.
    """
    out = out.resolve()
    refuse_if_taken(out)
    settings = read_settings(model, given)
    if out.name == POPULAR and model != POPULAR:
        raise InputError(f"{out}: '{POPULAR}' is the popularity baseline's name in comparisons; name another folder")
    if trials is not None and trials < 1:
        raise InputError(f"--trials {trials}: must be at least 1, which searches nothing")
    refuse_unspellable(out)
    dataset = Dataset.load(data)
    k = list_length(k, dataset.items.height)
    tried = candidates(model, settings, trials)
    if (len(tried) > 1 or "patience" in tried[0]) and not dataset.targets("validation").size:
        raise InputError(f"{data}: has no validation targets, by which {model} is tuned; prepare it with some")
    split_targets(dataset, split)  # what is wrong with it is said before hours of training
    from cftrec.baselines.rectools_models import BATCH, PACKAGES, fit  # slow to import, and not everybody has it

    found = out.with_name(f".{out.name}.trials.json")
    identity = {"dataset": sha256(data / MANIFEST), "model": model, "candidates": tried}
    results, fitted = _search(model, dataset, tried, found, identity, bar) if len(tried) > 1 else ([], None)
    chosen = max(results, key=lambda result: result["NDCG@10"])["settings"] if results else tried[0]
    begin = time.perf_counter()
    if fitted is None:
        with bar(f"train {model}") as advance:
            fitted = fit(model, dataset, chosen, advance)
    seconds = time.perf_counter() - begin
    with bar(f"evaluate {model}") as advance:
        result = _stand_ins(evaluate(fitted, dataset, split, k, progress=advance, batch_size=BATCH), out.name)
    manifest = {
        "config": {"model": model, **chosen},
        "searched": sorted(set(chosen) - set(settings)) if results else [],
        "trials": results,
        "epochs": fitted.epochs,
        "seconds": seconds + sum(trial["seconds"] for trial in results),
        "libraries": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    save_predictions(out, data, dataset, result, manifest)
    found.unlink(missing_ok=True)
    return result


def _search(
    model: str, dataset: Dataset, tried: list[Settings], found: Path, identity: dict[str, Any], bar: Bar
) -> tuple[list[dict[str, Any]], Any]:
    """Return settings, NDCG@10, epochs and seconds of each trial, and the best model unless it is of an earlier call.

    Raises:
        InputError: `found` holds the trials of another search.
    """
    from cftrec.baselines.rectools_models import fit, ndcg

    known = read_json(found) if found.exists() else {**identity, "trials": []}
    if {key: known.get(key) for key in identity} != identity:
        raise InputError(
            f"{found}: holds an interrupted search with other data or settings; give the same to go on with it, or "
            "remove the file to start anew"
        )
    results: list[dict[str, Any]] = known["trials"]
    best = None
    for number, settings in enumerate(tried[len(results) :], start=len(results) + 1):
        begin = time.perf_counter()
        with bar(f"trial {number} of {len(tried)}") as advance:
            fitted = fit(model, dataset, settings, advance)
        score = ndcg(fitted, dataset)
        if score > max((result["NDCG@10"] for result in results), default=-1.0):
            best = fitted
        seconds = time.perf_counter() - begin
        results.append({"settings": settings, "NDCG@10": score, "epochs": fitted.epochs, "seconds": seconds})
        write_json(found, {**identity, "trials": results})
    return results, best


def _stand_ins(result: Evaluation, name: str) -> Evaluation:
    """Name the result, and say where popularity stood in for a model that had no answer."""
    count = int((~result.ranks["exact"]).sum())
    told = [f"{count:,} of {len(result.ranks):,} lists are popularity's, for the model knows nothing of the history."]
    facts = {"model": name, "exact_share": 1.0, "popular_lists": count, "notes": told if count else []}
    return replace(result, facts=result.facts | facts)
