"""What long work shows on a terminal: progress bars on stderr that tell what is left."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback


class Advance(Protocol):
    """Called as work goes on."""

    def __call__(self, done: int, total: int) -> None:
        """Say that `done` of `total` pieces are finished."""


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


@contextmanager
def progress_bar(description: str) -> Iterator[Advance]:
    """Show a bar while the block runs; without a terminal, a line every tenth of the work."""
    with _bars() as bars:
        task = bars.add_task(description, total=None, note="")
        reported = 0

        def advance(done: int, total: int) -> None:
            nonlocal reported
            bars.update(task, completed=done, total=total)
            if bars.disable and (tenth := 10 * done // max(1, total)) > reported:
                reported = tenth
                print(f"{description}: {done}/{total}", file=sys.stderr, flush=True)

        yield advance


class TrainingBar(TrainerCallback):
    """A progress bar of optimizer steps with the latest loss; without a terminal, a line every tenth of the steps."""

    def __init__(self, description: str) -> None:
        self.description, self.note = description, ""
        self.bars = _bars()
        self.reported = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        self.bars.start()
        self.task = self.bars.add_task(self.description, total=state.max_steps, note="")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move on by a step."""
        self.bars.update(self.task, completed=state.global_step, note=self.note)
        if self.bars.disable and (tenth := 10 * state.global_step // max(1, state.max_steps)) > self.reported:
            self.reported = tenth
            line = f"{self.description}: step {state.global_step}/{state.max_steps} {self.note}"
            print(line, file=sys.stderr, flush=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the latest losses and speed."""
        if logs and "loss" in logs:
            self.note = f"loss {logs['loss']:.3f}, {logs['samples_per_second']:.0f} samples/s"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.bars.stop()
