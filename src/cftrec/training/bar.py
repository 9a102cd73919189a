"""The progress bar of a training."""

import sys
from typing import Any, Self

from transformers import TrainerCallback

from cftrec.terminal import bars


class TrainingBar(TrainerCallback):
    """A progress bar of optimizer steps with the latest loss; without a terminal, a line every tenth of the steps.

    Of several ranks the first has one.

    As a context it closes the bar however the training ends, or the terminal would keep drawing it, without a cursor.
    """

    def __init__(self, description: str) -> None:
        self.description, self.note = description, ""
        self.bars = bars()
        self.reported = 0

    def __enter__(self) -> Self:
        """Return the bar, which opens when training begins."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the bar."""
        self.bars.stop()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        self.shown = state.is_world_process_zero
        if not self.shown:
            return
        self.bars.start()
        self.task = self.bars.add_task(self.description, total=state.max_steps, note="")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move on by a step."""
        if not self.shown:
            return
        self.bars.update(self.task, completed=state.global_step, note=self.note)
        if self.bars.disable and (tenth := 10 * state.global_step // max(1, state.max_steps)) > self.reported:
            self.reported = tenth
            line = f"{self.description}: step {state.global_step}/{state.max_steps} {self.note}"
            print(line, file=sys.stderr, flush=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the latest losses and speed."""
        if logs and "loss" in logs:
            self.note = f"loss {logs['loss']:.3f}, {logs['samples_per_second']:.0f} samples/s"
