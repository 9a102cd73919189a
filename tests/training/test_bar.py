"""The progress bar of a training leaves the terminal as it was, however the training ends."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from cftrec.training.bar import TrainingBar


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_cursor_is_there_again_afterwards(error):
    shown = io.StringIO()
    with pytest.raises(error), TrainingBar("train") as bar:
        bar.bars = Progress(console=Console(file=shown, force_terminal=True))
        bar.on_train_begin(None, SimpleNamespace(max_steps=3, is_world_process_zero=True), None)
        bar.on_step_end(None, SimpleNamespace(max_steps=3, global_step=1), None)
        assert shown.getvalue().count("\x1b[?25l") == 1 + shown.getvalue().count("\x1b[?25h")
        raise error
    assert shown.getvalue().count("\x1b[?25l") == shown.getvalue().count("\x1b[?25h") == 1
