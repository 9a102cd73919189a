"""Train one model for each cell of a grid, or of a search, and say which is best on the validation split.

A cell is a RUN with some options of its own. Optuna keeps the account, chooses a search's cells (TPE), and stops a cell
whose best validation metric so far is worse than the median of the others at the same evaluation. The test split is
never looked at.
"""

import dataclasses
import difflib
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from cftrec.artefacts import MANIFEST, held, read_json, read_manifest, refuse_if_taken, sha256, write_json
from cftrec.data import Dataset
from cftrec.errors import InputError
from cftrec.evaluation.space import Range, Space, Values, cell_name, cells
from cftrec.evaluation.validation import ranking_metrics
from cftrec.training import CFTConfig, load_config, train
from cftrec.training.bar import TrainingBar
from cftrec.training.config import RANKED

STARTUP = 4  # cells that are never stopped: fewer have no median worth the name
MOST_SEED = 10**9  # numpy takes up to 2**32 - 1, and the draws so far are added to it
_MARK, _STUDY, _SUMMARY = "sweep.json", "study.log", "summary.json"


def sweep(
    data: Path,
    out: Path,
    space: Space,
    options: Mapping[str, Any],
    config_file: Path | None = None,
    *,
    preset: str | None = None,
    metric: str = RANKED,
    trials: int | None = None,
    evaluations: int = 5,
    keep_all: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Train the cells and write a sweep folder: summary.json, the best cell's RUN in cells/, and Optuna's study.log.

    The same call after an interruption goes on with the cell that was being trained, from its last checkpoint; after
    the end it only reads the summary, and with more trials it goes on searching.

    Args:
        data: a Dataset folder.
        out: the sweep folder.
        space: what varies (`space.read_space`).
        options: options of all cells, as for `load_config`.
        config_file: YAML file of options of all cells.
        preset: named options of all cells, which all others go before.
        metric: the validation metric that decides, as for `metric_for_best_model`.
        trials: draws of a search, of which one that repeats a cell trains nothing; None: the whole grid.
        evaluations: evaluations of a training, evenly spaced, at which a hopeless one may stop.
        keep_all: keep every cell's RUN (in `cells/`), not the best one alone; a sweep that was begun so goes on so.
        seed: of the search.

    Returns:
        The summary: `metric`, `best` and `cells`, each with options, value, state (complete, stopped, failed), steps
        and seconds; best first.

    Raises:
        InputError: optuna is missing, an option is wrong or both fixed and varied, `metric` measures nothing in some
            cell, `out` holds something else, or another command is sweeping there.
    """
    optuna = _optuna()
    if both := sorted(set(space) & set(options)):
        raise InputError(f"option {both[0]}: both fixed (--set) and varied (--vary); leave one out")
    if (trials is not None and trials < 1) or evaluations < 1:
        raise InputError(f"--trials {trials}, --evaluations {evaluations}: must be at least 1")
    if not 0 <= seed <= MOST_SEED:
        raise InputError(f"--seed {seed}: must be from 0 to {MOST_SEED:,}")
    _check_names(space)
    share = min(1 / evaluations, math.nextafter(1, 0))  # of a training; transformers takes 1 as one step
    common = {
        "eval_strategy": "steps",
        "eval_steps": share,
        "save_strategy": "steps",  # transformers wants checkpoints at evaluations, to load the best
        "save_steps": share,
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
    } | dict(options)
    _check_own(space, options)
    grid = cells(space) if trials is None else []
    # A mistake in the last cell is told before the first is trained.
    config, *_ = [load_config(config_file, common | values, preset) for values in grid or _corners(space)]
    _check_measured(config, space, data)
    fixed = {key: value for key, value in config.to_options().items() if key not in space}
    plain = {key: _plain(kind) for key, kind in space.items()}
    _claim(out, data, {"space": plain, "options": fixed})
    with held(out):
        keep_all = _remember(out, keep_all)
        study = _open_study(optuna, out / _STUDY, bool(config.greater_is_better), seed)
        _take_up(optuna, study, grid)

        def run(trial: Any) -> float:
            values = _suggest(trial, space)
            if any(other.params == trial.params for other in _done(study)):
                trial.set_user_attr("seconds", 0.0)  # a draw, too, or a search of few cells would have no end
                raise _Repeated
            return _train_cell(
                optuna, trial, data, out, lambda: load_config(config_file, common | values, preset), values
            )

        while _is_left(study, grid, trials):
            study.optimize(run, n_trials=1, catch=(InputError, _Repeated))
            _summarise(study, config.best_metric, out, keep_all)
        return _summarise(study, config.best_metric, out, keep_all)


def _optuna() -> Any:
    """Import what only a sweep needs."""
    try:
        import optuna
    except ImportError:
        raise InputError("a sweep needs optuna; install it with `pip install 'cftrec[sweep]'`") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # of a failed or interrupted cell it would show a traceback
    return optuna


def _corners(space: Space) -> list[Values]:
    """Return cells in which every value of a list, and both ends of a range, come up."""
    ends = {
        key: kind if isinstance(kind, list) else [_word(kind, kind.low), _word(kind, kind.high)]
        for key, kind in space.items()
    }
    most = max(len(values) for values in ends.values())
    return [{key: values[min(n, len(values) - 1)] for key, values in ends.items()} for n in range(most)]


def _check_names(space: Space) -> None:
    """Refuse to vary what is no option, or by what cells are compared."""
    known = {item.name for item in dataclasses.fields(CFTConfig) if item.init}
    for key in space:
        if key not in known:
            near = " or ".join(difflib.get_close_matches(key, sorted(known), n=3))
            raise InputError(f"--vary {key}: unknown option; {f'did you mean {near}' if near else 'is it misspelt'}?")


def _check_own(space: Space, options: Mapping[str, Any]) -> None:
    """Refuse options by which a sweep judges and keeps its cells."""
    for name, instead in {
        "metric_for_best_model": "cells are compared by one metric; name it with --metric",
        "load_best_model_at_end": "a cell's RUN is its best model; leave it out",
        "eval_strategy": "--evaluations says when; leave it out",
        "eval_delay": "--evaluations says when; leave it out",
    }.items():
        if name in space or name in options:
            raise InputError(f"option {name}: {instead}")
    if "save_strategy" in space or options.get("save_strategy", "steps") not in ("steps", "best"):
        raise InputError("option save_strategy: a cell keeps its best model; leave it out, or choose steps or best")


def _check_measured(config: CFTConfig, space: Space, data: Path) -> None:
    """Refuse a metric that is 0 for want of anything to measure: as a loss, 0 would be the best."""
    metric = config.best_metric
    if not len(Dataset.load(data).targets("validation")):
        raise InputError(
            f"{data}: no validation target, so cells cannot be compared; prepare it with a validation split"
        )
    weights = {"eval_prior": ["prior_weight"], "eval_effect": ["effect_weight", "prior_weight"]}.get(metric, [])
    if weights and all(_may_be_zero(config, space, name) for name in weights):
        raise InputError(
            f"--metric {metric}: needs {' or '.join(weights)} above 0 in every cell, or there is nothing to measure; "
            "set it, or choose eval_normal or eval_ndcg@10"
        )


def _may_be_zero(config: CFTConfig, space: Space, name: str) -> bool:
    """Say whether an option is 0 in some cell; the end of a range does not count, for no draw hits it."""
    kind = space.get(name, [getattr(config, name)])
    return isinstance(kind, list) and any(float(value) == 0 for value in kind)


def _word(kind: Range, value: float) -> str:
    return str(int(value)) if kind.whole else repr(float(value))


def _plain(kind: list[str] | Range) -> list[str] | str:
    return kind if isinstance(kind, list) else f"{_word(kind, kind.low)}..{_word(kind, kind.high)}{':log' * kind.log}"


def _claim(out: Path, data: Path, what: dict[str, Any]) -> None:
    """Mark a free folder as this sweep's; refuse one that holds anything else."""
    read_manifest(data, "dataset")
    identity = {"dataset": sha256(data / MANIFEST)} | what
    if not (out / _MARK).exists():
        refuse_if_taken(out)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / _MARK, identity)
    elif (known := read_json(out / _MARK)) | identity != known:
        options, wanted = known.get("options", {}), identity["options"]
        differs = [key for key in ("dataset", "space") if known.get(key) != identity[key]]
        differs += sorted(key for key in options.keys() | wanted.keys() if options.get(key) != wanted.get(key))
        raise InputError(
            f"{out}: holds a sweep with another {', '.join(differs)}; give the same, or name another folder"
        )


def _remember(out: Path, keep_all: bool) -> bool:
    """Say whether every cell's RUN is kept: an earlier call may have asked for it, and no later one removes them."""
    mark = read_json(out / _MARK)
    if keep_all and not mark.get("keep_all"):
        write_json(out / _MARK, mark | {"keep_all": True})
    return keep_all or bool(mark.get("keep_all"))


def _is_left(study: Any, grid: list[Values], trials: int | None) -> bool:
    """Say whether a cell of the grid, or a draw of the search, is still to be done."""
    done = [trial.params for trial in _done(study)]
    return len(done) < trials if trials is not None else any(values not in done for values in grid)


def _open_study(optuna: Any, log: Path, maximise: bool, seed: int) -> Any:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(log)))
    study = optuna.create_study(
        study_name="sweep",
        storage=storage,
        direction="maximize" if maximise else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
        load_if_exists=True,
    )
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + len(study.trials)
    )  # taken up again, it must not repeat itself
    return study


def _take_up(optuna: Any, study: Any, grid: list[Values]) -> None:
    """Queue what the grid has beyond an earlier call's draws, and again the cell at which the sweep was interrupted.

    One at which it crashed comes after all others in a grid; a search draws another, or it would get no further.
    """
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):  # killed without a word
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    trials = study.trials
    begun = {str(trial.params or trial.system_attrs.get("fixed_params")): trial for trial in trials}  # the last of each
    for trial in begun.values():
        known = trial.user_attrs
        if trial.state.is_finished() and not _is_done(trial) and trial.params and (grid or "crashed" not in known):
            study.enqueue_trial(trial.params)
    for values in grid:
        if str(values) not in begun:
            study.enqueue_trial(values)


def _done(study: Any) -> list[Any]:
    """Return the draws that are done."""
    return [trial for trial in study.trials if _is_done(trial)]


def _is_done(trial: Any) -> bool:
    """Say whether a draw was trained, stopped, found not to be trainable, or a cell again; not if it was cut short."""
    known = trial.user_attrs
    failed = "error" in known or known.get("seconds") == 0
    return trial.state.is_finished() and "seconds" in known and (trial.state.name != "FAIL" or failed)


def _suggest(trial: Any, space: Space) -> Values:
    """Return a cell's values."""
    values = {}
    for key, kind in space.items():
        if isinstance(kind, list):
            values[key] = trial.suggest_categorical(key, kind)
        elif kind.whole:
            values[key] = str(trial.suggest_int(key, int(kind.low), int(kind.high), log=kind.log))
        else:
            values[key] = repr(trial.suggest_float(key, kind.low, kind.high, log=kind.log))
    return values


class _Repeated(Exception):
    """A search has drawn a cell that is done. Optuna takes the draw for failed, so that it weighs nothing there."""


class _Report(TrainerCallback):
    """Tells a trial every evaluation, also those before an interruption, and stops a hopeless one."""

    def __init__(self, optuna: Any, trial: Any, metric: str) -> None:
        self.optuna, self.trial, self.metric = optuna, trial, metric
        self.told = 0

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report, and raise where the median of the others is better; the last evaluation stops nothing."""
        values = [line[self.metric] for line in state.log_history if self.metric in line]
        for number in range(self.told, len(values)):
            self.trial.report(values[number], number)
        self.told = len(values)
        if state.global_step < state.max_steps and self.trial.should_prune():
            self.trial.set_user_attr("steps", state.global_step)
            raise self.optuna.TrialPruned


def _train_cell(
    optuna: Any, trial: Any, data: Path, out: Path, configure: Callable[[], CFTConfig], values: Values
) -> float:
    """Train a cell's RUN and return its best validation metric; what a search draws need not go together."""
    run = out / "cells" / cell_name(values)
    begin = time.perf_counter()
    try:
        config = configure()
        if taken := run.exists():  # the sweep was interrupted between the RUN and its account
            _check_run(run, config)
            shutil.rmtree(run.with_name(f".{run.name}.checkpoints"), ignore_errors=True)
        trial.set_user_attr("run", str(run.relative_to(out)))
        if not taken:
            measure = ranking_metrics if config.best_metric == RANKED else None
            with TrainingBar(f"{trial.number + 1}: {run.name}") as bar:
                train(data, run, config, [_Report(optuna, trial, config.best_metric), bar], measure)
        value = _best_value(run, config)
    except optuna.TrialPruned:
        shutil.rmtree(run.with_name(f".{run.name}.checkpoints"), ignore_errors=True)
        trial.set_user_attr("seconds", time.perf_counter() - begin)
        raise
    except InputError as error:
        trial.set_user_attr("error", str(error))
        trial.set_user_attr("seconds", time.perf_counter() - begin)
        raise
    except Exception:  # a bug, whose traceback is to be seen
        trial.set_user_attr("crashed", True)
        raise
    trial.set_user_attr("steps", read_json(run / MANIFEST)["steps"])
    trial.set_user_attr("seconds", time.perf_counter() - begin)
    return value


def _best_value(run: Path, config: CFTConfig) -> float:
    """Return the best of a RUN's evaluations."""
    found = [line[config.best_metric] for line in read_json(run / "log.json")["log"] if config.best_metric in line]
    if not found or not all(map(math.isfinite, found)):
        what = f"gives {config.best_metric} no number" if found else "was never evaluated"
        raise InputError(f"{run}: {what}, so it cannot be compared")
    return float(max(found) if config.greater_is_better else min(found))


def _check_run(run: Path, config: CFTConfig) -> None:
    """Refuse a RUN that was trained with other options; only its `batching` is what "auto" came to."""
    known, wanted = (
        options | {"batching": None} for options in (read_manifest(run, "run")["config"], config.to_options())
    )
    differs = sorted(key for key in known.keys() | wanted.keys() if known.get(key) != wanted.get(key))
    if differs:
        raise InputError(f"{run}: holds a RUN with another {', '.join(differs)}; move it away and sweep anew")


_STATES = {"COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed"}


def _summarise(study: Any, metric: str, out: Path, keep_all: bool) -> dict[str, Any]:
    """Write summary.json, best cell first, and remove the RUNs that are not wanted."""
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    found: list[dict[str, Any]] = []
    for trial in _done(study):
        if any(cell["options"] == trial.params for cell in found):
            continue
        state = _STATES[trial.state.name]
        reported = [value for value in trial.intermediate_values.values() if math.isfinite(value)]
        best = (
            trial.value if state == "complete" else sign * min((sign * value for value in reported), default=math.nan)
        )
        cell = {"options": trial.params, "state": state, "value": None if math.isnan(best) else best}
        found.append(
            cell
            | {key: trial.user_attrs[key] for key in ("steps", "seconds", "error", "run") if key in trial.user_attrs}
        )
    order = {"complete": 0, "stopped": 1, "failed": 2}
    found.sort(key=lambda cell: (order[cell["state"]], math.inf if cell["value"] is None else sign * cell["value"]))
    complete = found[0] if found and found[0]["state"] == "complete" else None
    kept = {cell["run"] for cell in found if cell is complete or (keep_all and cell["state"] == "complete")}
    for cell in found:
        if cell.get("run") not in kept and (run := cell.pop("run", None)):
            shutil.rmtree(out / run, ignore_errors=True)
    summary = {"metric": metric, "split": "validation", "best": complete, "cells": found}
    write_json(out / _SUMMARY, summary)
    return summary
