"""What happens between steps: the temperature, the log, the best model, whole checkpoints."""

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


class LogLast(TrainerCallback):
    """Logs the last step, too, so that no work is left out of the log."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a line after the last step."""
        if state.global_step >= state.max_steps:
            control.should_log = True


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
        """Stop before a step is taken where the checkpoint's evaluation was the last."""
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


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once it is whole: a process killed while it writes one leaves it without the mark."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the mark."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():  # `save_total_limit` may have removed it already
            (folder / _COMPLETE).touch()


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in a folder, or None."""
    whole = [mark.parent for mark in folder.glob(f"checkpoint-*/{_COMPLETE}")]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)
