"""Baselines that a language model must beat, trained by RecTools on the same Dataset, split and histories as a RUN.

`baseline` chooses settings on the validation split, trains, ranks the whole catalogue for a split's targets, and writes
a folder of predictions, which `cftrec compare` takes beside RUNs. RecTools is imported in `rectools_models` alone.
"""

from cftrec.baselines.baseline import baseline
from cftrec.baselines.settings import MODELS, describe_settings, read_settings

__all__ = ["MODELS", "baseline", "describe_settings", "read_settings"]
