"""Options of a model so small that a test trains it in a blink, and what makes its temperature move."""

import math
from typing import Any

from cftrec.objective import temperature

SMALL: dict[str, Any] = {
    "use_cpu": True,
    "report_to": "none",
    "category": "movie",
    "nano_vocab_size": 300,
    "nano_hidden_size": 16,
    "nano_layers": 1,
    "nano_heads": 2,
    "window": 5,
    "history_stride": 2,
    "warmup_steps": 0,
    "save_strategy": "no",
    "attention_call": 500,  # small forests in several blocks, and nothing measured
}

ADAPTIVE: dict[str, Any] = {"softmax": "catalogue", "adaptive_temperature": True}


def let_temperatures_move(patch: Any) -> None:
    """Replace the formula, which holds a model that knows nothing at the lower bound, by one that shows every sum."""

    def wanted(tokens: float, of_targets: float, candidates: float, total: float, squares: float) -> float:
        return 3 + tokens / 40 + math.tanh(9 * of_targets / tokens - 3 * total / candidates) + math.tanh(squares / 40)

    patch.setattr(temperature, "wanted_temperature", wanted)
