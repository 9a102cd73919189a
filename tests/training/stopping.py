"""Breaking off a training where a killed process would."""

from typing import Any

from transformers import TrainerCallback


class StopAtStep(TrainerCallback):
    """Break off after a step, before it is logged, measured and saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise InterruptedError
