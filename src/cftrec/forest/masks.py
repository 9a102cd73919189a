"""Masks in the form that a transformers model takes: one, or one for each kind of its layers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def by_kind_of_layer(config: Any, make: Callable[[int | None], Any]) -> Any:
    """Make a model's mask: of its window where all layers slide, of None where none does, else a dict of both.

    Args:
        config: the model's configuration.
        make: returns the mask of layers that see so many positions back, or all (None).
    """
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    if window is None or "sliding_attention" not in kinds:
        return make(None)
    if kinds == {"sliding_attention"}:
        return make(window)
    return {"full_attention": make(None), "sliding_attention": make(window)}


def attention_mask(
    allowed: Tensor, query_depth: Tensor, key_depth: Tensor, config: Any, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
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

    def make(window: int | None) -> Tensor:
        near = allowed
        if window is not None:
            near = allowed & (query_depth[:, :, None] - key_depth[:, None, :] < window)
        return _formatted(near, config, dtype)

    return by_kind_of_layer(config, make)


def _formatted(allowed: Tensor, config: Any, dtype: torch.dtype) -> Tensor:
    if config._attn_implementation != "eager":
        return allowed[:, None]
    blocked = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return blocked.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
