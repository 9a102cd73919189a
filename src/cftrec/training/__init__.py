"""Training: config, batches of forests, the step, and the trainer."""

from cftrec.training.config import CFTConfig, load_config
from cftrec.training.run import train
from cftrec.training.trainer import CFTTrainer

__all__ = ["CFTConfig", "CFTTrainer", "load_config", "train"]
