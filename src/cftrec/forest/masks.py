"""Attention masks of forests: a node attends to its ancestors and itself, and to nothing else."""

from typing import Any

import torch
from torch import Tensor

Mask = Tensor | dict[str, Tensor]


def ancestor_mask(end: Tensor) -> Tensor:
    """Return who may attend to whom in rows of depth-first order.

    Args:
        end: int64 [R, L], subtree ends of R rows; a padding node i has end i + 1 and attends to itself alone.

    Returns:
        bool [R, L, L]; entry (i, j) is true iff j <= i < end[j].
    """
    index = torch.arange(end.shape[1], device=end.device)
    return (index[None, :] <= index[:, None]) & (index[:, None] < end[:, None, :])


def attention_mask(allowed: Tensor, query_depth: Tensor, key_depth: Tensor, config: Any, dtype: torch.dtype) -> Mask:
    """Turn who-may-attend-to-whom into the mask that a transformers model takes as it is.

    Sliding layers see keys less than `config.sliding_window` positions away, counted in depth. A model with several
    kinds of layers gets a dict of masks. Eager attention adds its mask, and would take a boolean one for numbers.

    Args:
        allowed: bool [R, Q, K].
        query_depth: int64 [R, Q], position ids.
        key_depth: int64 [R, K], position ids.
        config: the model's configuration.
        dtype: of a mask that is added.
    """
    near = None
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    if window is not None and "sliding_attention" in kinds:
        near = allowed & (query_depth[:, :, None] - key_depth[:, None, :] < window)
    if near is None:
        return _formatted(allowed, config, dtype)
    if kinds == {"sliding_attention"}:
        return _formatted(near, config, dtype)
    return {
        "full_attention": _formatted(allowed, config, dtype),
        "sliding_attention": _formatted(near, config, dtype),
    }


def _formatted(allowed: Tensor, config: Any, dtype: torch.dtype) -> Tensor:
    if config._attn_implementation != "eager":
        return allowed[:, None]
    blocked = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return blocked.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
