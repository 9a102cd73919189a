"""What long work shows on a terminal: progress bars on stderr that tell what is left."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Advance(Protocol):
    """Called as work goes on."""

    def __call__(self, done: int, total: int) -> None:
        """Say that `done` of `total` pieces are finished."""


def bars() -> Progress:
    """Return bars on stderr, shown where it is a terminal."""
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
    with bars() as shown:
        task = shown.add_task(description, total=None, note="")
        reported = 0

        def advance(done: int, total: int) -> None:
            nonlocal reported
            shown.update(task, completed=done, total=total)
            if shown.disable and (tenth := 10 * done // max(1, total)) > reported:
                reported = tenth
                print(f"{description}: {done}/{total}", file=sys.stderr, flush=True)

        yield advance
