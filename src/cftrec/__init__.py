"""cftrec: recommend with a language model, by Counterfactual Fine-Tuning (arXiv 2410.22809)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cftrec.data import Dataset
    from cftrec.recommender import Recommender
    from cftrec.text import Catalogue
    from cftrec.training import CFTConfig, CFTTrainer

_HOMES = {
    "Catalogue": "cftrec.text",
    "CFTConfig": "cftrec.training",
    "CFTTrainer": "cftrec.training",
    "Dataset": "cftrec.data",
    "Recommender": "cftrec.recommender",
}
__all__ = ["CFTConfig", "CFTTrainer", "Catalogue", "Dataset", "Recommender"]


def __getattr__(name: str) -> Any:
    """Import the public classes when they are first used: torch and transformers take seconds to load."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cftrec' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
