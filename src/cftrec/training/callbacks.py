"""What happens between steps: temperature, share of lambda, the log, the best model, whole checkpoints."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import TrainerCallback

from cftrec.training.step import CFTStep

_COMPLETE = "complete"


class MoveTemperature(TrainerCallback):
    """Moves an adaptive temperature once a step is whole, by what all ranks saw in it."""

    def __init__(self, over_ranks: Callable[[Tensor], Tensor]) -> None:
        self.over_ranks = over_ranks

    def on_step_end(self, args: Any, state: Any, control: Any, model: CFTStep | None = None, **kwargs: Any) -> None:
        """Move it before anything is logged, measured or saved."""
        if model is not None and model.temperature.adaptive:
            model.temperature.move(self.over_ranks)


class ScheduleEffect(TrainerCallback):
    """Sets the share of lambda that each step trains with; it follows from the step alone, as after an interruption.

    Args:
        schedule: "constant": 1; "rising": step n of N has n / N; "falling": (N - n + 1) / N.
    """

    def __init__(self, schedule: str) -> None:
        self.schedule = schedule

    def on_step_begin(self, args: Any, state: Any, control: Any, model: CFTStep | None = None, **kwargs: Any) -> None:
        """Set it."""
        if model is not None and self.schedule != "constant":
            done = state.global_step
            model.effect_share = (done + 1 if self.schedule == "rising" else state.max_steps - done) / state.max_steps


class LogLast(TrainerCallback):
    """Logs the last step, too, so that no work is left out of the log."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a line after the last step."""
        if state.global_step >= state.max_steps:
            control.should_log = True


class SaveMeasured(TrainerCallback):
    """Saves an epoch's last step once its evaluation is done, where epochs are measured and steps are saved.

    Else a kill in between would leave a checkpoint from which the training goes on with the next epoch, unmeasured.
    """

    def __init__(self) -> None:
        self.due = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put off what falls due."""
        last = state.global_step >= state.max_steps or state.epoch == int(state.epoch)
        if args.eval_strategy == "epoch" and control.should_save and last:
            control.should_save, self.due = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make up for it: transformers saves after it has measured."""
        control.should_save |= self.due
        self.due = False


class StopWhereFinished(TrainerCallback):
    """Ends a training that goes on from the checkpoint of its last step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop before a step is taken."""
        if state.global_step >= state.max_steps:
            control.should_training_stop = True


class KeepBest(TrainerCallback):
    """Saves the model that an evaluation finds best so far, and stops after `patience` evaluations without a better.

    transformers would load a best model only where a checkpoint fell due at its step anyway. What is best is read off
    the log, which a checkpoint holds, so that an interrupted training counts on.

    Args:
        metric: name in the log.
        patience: evaluations in a row that need not be better; None never stops.
    """

    def __init__(self, metric: str, patience: int | None) -> None:
        self.metric, self.patience = metric, patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the best checkpoint where the folder is now; stop where the newest one's evaluation was the last."""
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if best.is_dir():
            state.best_model_checkpoint = str(best)
        self._stop(self._since_best(args, state), control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save or stop."""
        waited = self._since_best(args, state)
        control.should_save |= waited == 0
        self._stop(waited, control)

    def _since_best(self, args: Any, state: Any) -> int:
        """Return the number of evaluations after the best one, of equals the first."""
        values = np.array([line[self.metric] for line in state.log_history if self.metric in line] or [np.nan])
        scores = np.nan_to_num(
            values if args.greater_is_better else -values, nan=-np.inf, posinf=np.inf, neginf=-np.inf
        )
        return len(scores) - 1 - int(scores.argmax())

    def _stop(self, waited: int, control: Any) -> None:
        if self.patience is not None and waited >= self.patience:
            control.should_training_stop = True


class KeepCheckpoints(TrainerCallback):
    """Marks a checkpoint once it is whole, and only then removes what `save_total_limit` leaves no room for.

    A process that is killed at any moment thus leaves a whole checkpoint if it ever had one, and no mark in a part.
    """

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the newest, and remove the oldest but for the best; unmarked ones, which a kill left, go first."""
        if not state.is_world_process_zero:
            return
        newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (newest / _COMPLETE).touch()
        if (args.save_total_limit or 0) <= 0:
            return
        kept = {newest, newest.with_name(Path(state.best_model_checkpoint or newest).name)}
        others = [path for path in newest.parent.glob("checkpoint-*") if path not in kept]
        others.sort(key=lambda path: ((path / _COMPLETE).exists(), _step(path)), reverse=True)
        for old in others[max(0, args.save_total_limit - len(kept)) :]:
            (old / _COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(old, ignore_errors=True)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder, or None."""
    return max((mark.parent for mark in folder.glob(f"checkpoint-*/{_COMPLETE}")), key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])
