"""What is optimised: token weights and the counterfactual fine-tuning loss on hidden states."""

from cftrec.objective.loss import CFTLoss, cft_loss, weighted_cross_entropy
from cftrec.objective.temperature import Temperature
from cftrec.objective.weights import gain_weights, token_weights

__all__ = ["CFTLoss", "Temperature", "cft_loss", "gain_weights", "token_weights", "weighted_cross_entropy"]
