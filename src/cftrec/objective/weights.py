"""Weights of a title's tokens: early tokens decide which title it is, so they count more."""

import torch
from torch import Tensor


def token_weights(lengths: Tensor | list[int], *, beta: float = 0.25) -> Tensor:
    """Return w_t = 1 - (1 - beta) (t - 1) / (T - 1) for each target, one after another (arXiv 2410.22809).

    Args:
        lengths: [n], the number T >= 0 of weighted tokens of each target.
        beta: weight of a target's last token; 1 weighs all alike. Default as in the authors' code.

    Returns:
        float32 [sum(lengths)]; 1 at each target's first token, beta at its last; T = 1 gives 1.
    """
    counts = torch.as_tensor(lengths, dtype=torch.int64)
    starts = torch.cumsum(counts, 0) - counts
    position = torch.arange(int(counts.sum()), device=counts.device) - torch.repeat_interleave(starts, counts)
    span = torch.repeat_interleave((counts - 1).clamp(min=1), counts)
    return (1 - (1 - beta) * (position.double() / span)).float()
