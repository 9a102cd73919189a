"""Attention within one packed forest, exact and without a dense mask: by blocks of queries, or by FlexAttention.

In depth-first order whatever a node of a block s..t may attend to and that stands before s is an ancestor of s: from
j <= s <= i < end[j] follows that j is one of s, too. So a block's keys are its first node's path and the block itself,
Q (depth[s] + Q) pairs of query and key, however long the forest is. Nothing is padded, and no trunk is computed twice
for the sake of attention.

A model runs this way once its configuration names it (`model.set_attn_implementation(BLOCKS)`): transformers then calls
`_attention` in every layer. How far a layer sees is told it by the mask that it picks: `_window` for blocks, a
`BlockMask` for FlexAttention.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cftrec.forest.masks import by_kind_of_layer

BLOCKS, FLEX = "cftrec_blocks", "cftrec_flex"


class Blocks:
    """A forest [L] cut into blocks.

    Args:
        depth: int64 [L].
        end: int64 [L].
        cuts: int64 [B + 1], where blocks begin, closed by L (`cut_blocks`).

    Attributes:
        queries: Q of each block.
        keys: K = A + Q of each block.
        above: int64 [A] of each block, its first query's path, itself left out.
        index: int64 [sum K], the nodes that are the blocks' keys.
    """

    def __init__(self, depth: Tensor, end: Tensor, cuts: Tensor) -> None:
        self.depth, self.end, self.cuts = depth, end, cuts.tolist()
        nodes = torch.arange(len(end), device=end.device)
        bounds = list(zip(self.cuts, self.cuts[1:], strict=False))
        self.above = [torch.nonzero(end[:begin] > begin)[:, 0] for begin, _ in bounds]
        parts = [torch.cat([above, nodes[begin:stop]]) for above, (begin, stop) in zip(self.above, bounds, strict=True)]
        self.queries, self.keys = [stop - begin for begin, stop in bounds], [len(part) for part in parts]
        self.index = torch.cat(parts)
        self._allowed: dict[int, list[Tensor]] = {}

    def allowed(self, window: int) -> list[Tensor]:
        """Return for each block bool [Q, K]; with a window, keys less than so many positions of depth away."""
        if window not in self._allowed:
            nodes = torch.arange(len(self.end), device=self.end.device)
            masks = []
            for query, key in zip(nodes.split(self.queries), self.index.split(self.keys), strict=True):
                mask = (key <= query[:, None]) & (query[:, None] < self.end[key])
                if window:
                    mask &= self.depth[query][:, None] - self.depth[key] < window
                masks.append(mask)
            self._allowed[window] = masks
        return self._allowed[window]


def forest_masks(config: Any, depth: Tensor, end: Tensor, cuts: Tensor) -> dict[str, Any]:
    """Return what a model takes, besides tokens, to run one forest with the attention that its config names.

    Args:
        config: the model's configuration.
        depth: int64 [L].
        end: int64 [L].
        cuts: int64 [B + 1] (`cut_blocks`), for attention by blocks.

    Raises:
        ValueError: another attention, which would take the forest for one sequence.
    """
    if config._attn_implementation not in {BLOCKS, FLEX}:
        raise ValueError(f"attention {config._attn_implementation!r} knows no forests: set it by `choose_batching`")
    if config._attn_implementation == FLEX:
        return {"attention_mask": by_kind_of_layer(config, lambda window: _block_mask(depth, end, window))}
    return {"attention_mask": by_kind_of_layer(config, _window), "forest": Blocks(depth, end, cuts)}


def _window(window: int | None) -> Tensor:
    """Return the window (0: none) in the shape of a mask, which models hand on to their layers as it is."""
    return torch.full((1, 1, 1, 1), window or 0)


def _block_mask(depth: Tensor, end: Tensor, window: int | None) -> BlockMask:
    def ancestor(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (key <= query) & (query < end[key])
        return seen if window is None else seen & (depth[query] - depth[key] < window)

    return create_block_mask(ancestor, None, None, len(end), len(end), device=end.device)


@cache
def _compiled_flex() -> Any:
    """FlexAttention without compilation forms all scores; compiled for dynamic lengths, once is enough."""
    return torch.compile(flex_attention, dynamic=True)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a layer that is compiled breaks here
def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    forest: Blocks | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend as the mask says; arguments and result are those of transformers' attention functions."""
    if others.get("s_aux") is not None or others.get("position_bias") is not None:
        raise ValueError("attention with sinks or position biases is not supported on forests")
    if isinstance(attention_mask, BlockMask):
        capped = None if softcap is None else _cap(torch.tensor(softcap, device=query.device))
        mixed = _compiled_flex()(
            query, key, value, score_mod=capped, block_mask=attention_mask, scale=scaling, enable_gqa=True
        )
        return mixed.transpose(1, 2).contiguous(), None
    if forest is None:
        if attention_mask is None and softcap is None:
            return sdpa_attention_forward(module, query, key, value, None, dropout, scaling, **others)
        if attention_mask is None:  # the queries are the last ones of the keys
            queries, keys = query.shape[2], key.shape[2]
            attention_mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
        return attend(query, key, value, attention_mask, scaling, dropout, softcap).transpose(1, 2).contiguous(), None
    given, wide = query.dtype, block_dtype(query.device, query.dtype)
    query, key, value = (states.to(wide) for states in (query, key, value))
    parts = zip(
        query.split(forest.queries, 2),
        _Gather.apply(key, forest).split(forest.keys, 2),
        _Gather.apply(value, forest).split(forest.keys, 2),
        forest.allowed(int(attention_mask)),
        strict=True,
    )
    with torch.autocast(query.device.type, enabled=wide == given and torch.is_autocast_enabled(query.device.type)):
        mixed = torch.cat([attend(*part, scaling, dropout, softcap) for part in parts], 2)
    return mixed.to(given).transpose(1, 2).contiguous(), None


def block_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return in what dtype blocks of attention are computed where their states have `dtype`.

    On a CPU in fp32: its kernel takes longer in bf16, most of all for the backward pass of small blocks.
    """
    return torch.promote_types(dtype, torch.float32) if device.type == "cpu" else dtype


def _cap(softcap: Tensor) -> Any:
    """Return how scores are capped; a number instead of a tensor does not compile for dynamic lengths."""
    return lambda score, *_: softcap * torch.tanh(score / softcap)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    """Return [R, heads, Q, D]: scaled dot-product attention, with scores capped where `softcap` is given (Gemma 2).

    Args:
        query: [R, heads, Q, D].
        key: [R, key heads, K, D]; key heads divide heads.
        value: [R, key heads, K, D].
        allowed: bool, broadcast to [R, heads, Q, K]. Of a query without a key, which padding can be, something finite
            comes out, so that it spoils nothing where its own weight is 0.
        scaling: factor on the scores; default D ** -0.5.
        dropout: on the attention weights.
        softcap: c where scores become c * tanh(scores / c).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and (softcap is not None or query.is_cuda):  # CUDA's kernels take a mask or groups, not both
        key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    if softcap is None:
        return nn.functional.scaled_dot_product_attention(
            query, key, value, allowed, dropout, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
        )
    scores = (query @ key.transpose(2, 3)) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = scores.softmax(3, torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return nn.functional.dropout(weights, dropout) @ value


class _Gather(torch.autograd.Function):
    """The keys or values of all blocks, [1, heads, sum K, D] of [1, heads, L, D].

    Backward adds a block's gradients at once, for its nodes are distinct; autograd's own would add them one by one.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, forest: Blocks) -> Tensor:
        ctx.forest = forest
        return states.index_select(2, forest.index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        forest = ctx.forest
        parts = gradients[0].split(forest.keys, 2)
        total = torch.cat([part[:, :, len(above) :] for part, above in zip(parts, forest.above, strict=True)], 2)
        for part, above in zip(parts, forest.above, strict=True):
            if len(above):
                total[:, :, above] += part[:, :, : len(above)]
        return total, None


for _name in (BLOCKS, FLEX):
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, sdpa_mask)
