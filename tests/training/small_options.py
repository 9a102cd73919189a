"""Options of a model so small that a test trains it in a blink."""

from typing import Any

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
