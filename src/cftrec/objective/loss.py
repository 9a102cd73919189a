"""The CFT objective on hidden states, in chunks: no tensor of [tokens x vocabulary] is ever held.

The head is affine, so f(x_h) - f(x_0) = W (h1 - h0): the effect's logits cost one product with the difference of the
hidden states. Backward forms each chunk's logits again and adds straight into one gradient of the head.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHUNK_BYTES = 64 * 2**20
"""Default budget in bytes of a chunk's fp32 logits; the loss holds about three tensors of this size at a time."""


class CFTLoss(NamedTuple):
    """0-dim tensors, each divided by the denominator; `total` = normal + effect_weight * effect."""

    total: Tensor
    normal: Tensor
    effect: Tensor


class Choices(NamedTuple):
    """The tokens that a softmax over the catalogue compares, for each of N tokens to predict.

    Attributes:
        offsets: int64 [N + 1].
        tokens: int64 [offsets[-1]]; token n's candidates, its target among them, are
            `tokens[offsets[n]:offsets[n + 1]]`.
    """

    offsets: Tensor
    tokens: Tensor


def cft_loss(
    factual: Tensor,
    counterfactual: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    effect_weight: float = 0.1,
    effect_weights: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    denominator: Tensor | float | None = None,
    chunk_size: int | None = None,
    choices: Choices | None = None,
    fixed_counterfactual: bool = False,
) -> CFTLoss:
    """Counterfactual fine-tuning loss (arXiv 2410.22809), exact in value and in every gradient.

    `normal` = sum w CE(f(x_h), y) / D and `effect` = sum w' CE(f(x_h) - f(x_0), y) / D.

    Args:
        factual: [N, H] hidden states that predict the target tokens, history shown (x_h).
        counterfactual: [N, H] the same positions with no history (x_0).
        head: [V, H] output embedding W.
        targets: int64 [N].
        weights: [N] token weights w.
        effect_weight: lambda. Default as in the authors' code.
        effect_weights: [N] other weights w' for the effect term; default `weights`.
        bias: [V] bias of the head; it cancels in the effect term unless `softcap` is given.
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2), in both branches before they are subtracted.
        denominator: D; default sum w. Give the whole optimizer step's sum where a step is computed in parts.
        chunk_size: tokens per chunk; default keeps a chunk's logits within `CHUNK_BYTES`.
        choices: normalise over these tokens instead of the whole vocabulary (arXiv 2504.04178).
        fixed_counterfactual: take the logits f(x_0) for constants: no gradient reaches `counterfactual`, nor the head
            and the bias by way of f(x_0). (A detached `counterfactual` alone still lets the head's W h_0 be trained.)

    Returns:
        The three losses; gradients flow into both hidden states, the head and the bias.
    """
    normal, effect = _Terms.apply(
        factual,
        counterfactual,
        head,
        bias,
        targets,
        weights,
        effect_weights,
        softcap,
        chunk_size,
        choices,
        fixed_counterfactual,
    )
    if denominator is None:
        denominator = weights.sum(dtype=normal.dtype)
        denominator = torch.where(denominator == 0, 1, denominator)  # nothing to weigh: a loss of 0, not 0/0
    normal, effect = normal / denominator, effect / denominator
    return CFTLoss(total=normal + effect_weight * effect, normal=normal, effect=effect)


def weighted_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk_size: int | None = None,
    choices: Choices | None = None,
) -> Tensor:
    """Return sum w CE(f, y), a 0-dim tensor, with the arguments of `cft_loss`; the same chunks and gradients."""
    return _Terms.apply(hidden, None, head, bias, targets, weights, None, softcap, chunk_size, choices, False)[0]


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which products of `tensor` are formed here: autocast's where it is on, else its own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


class _Chunk(NamedTuple):
    """Some tokens, and the rows of the head they are scored against (`columns` None: all of them)."""

    tokens: Tensor
    columns: Tensor | None
    allowed: Tensor | None
    labels: Tensor


def _chunks(targets: Tensor, vocabulary: int, chunk_size: int | None, choices: Choices | None) -> Iterator[_Chunk]:
    size = chunk_size or max(1, CHUNK_BYTES // (4 * vocabulary))
    if choices is None:
        for index in torch.arange(len(targets), device=targets.device).split(size):
            yield _Chunk(index, None, None, targets[index])
        return
    # Tokens with as many candidates meet in a chunk (the root's come together), so their union stays small.
    counts = choices.offsets.diff()
    for index in torch.argsort(counts, descending=True, stable=True).split(size):
        owner = torch.repeat_interleave(torch.arange(len(index), device=index.device), counts[index])
        first = torch.repeat_interleave(choices.offsets[index] - counts[index].cumsum(0) + counts[index], counts[index])
        candidates = choices.tokens[first + torch.arange(len(first), device=index.device)]
        columns, column = torch.unique(candidates, return_inverse=True)
        allowed = torch.zeros(len(index), len(columns), dtype=torch.bool, device=index.device)
        allowed[owner, column] = True
        yield _Chunk(index, columns, allowed, torch.searchsorted(columns, targets[index]))


def _logits(hidden: Tensor, head: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    """Return fp32 logits [n, V]; products in the dtype of `hidden`."""
    logits = (hidden @ head.T).to(torch.promote_types(hidden.dtype, torch.float32))
    if bias is not None:
        logits += bias
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _cross_entropy(logits: Tensor, chunk: _Chunk) -> tuple[Tensor, Tensor]:
    """Return CE [n] and the log-normaliser [n, 1] over the allowed columns (others are set to -inf in place)."""
    if chunk.allowed is not None:
        logits.masked_fill_(~chunk.allowed, -torch.inf)
    normaliser = torch.logsumexp(logits, 1, keepdim=True)
    return (normaliser - logits.gather(1, chunk.labels[:, None]))[:, 0], normaliser


def _slope(logits: Tensor, chunk: _Chunk, weights: Tensor) -> Tensor:
    """Return d sum(weights CE) / d logits, in place of the logits."""
    normaliser = _cross_entropy(logits, chunk)[1]
    logits.sub_(normaliser).exp_()
    logits[torch.arange(len(logits), device=logits.device), chunk.labels] -= 1
    return logits.mul_(weights[:, None])


class _Terms(torch.autograd.Function):
    """(sum w normal, sum w' effect); the effect is 0 where no counterfactual is given."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        factual: Tensor,
        counterfactual: Tensor | None,
        head: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        effect_weights: Tensor | None,
        softcap: float | None,
        chunk_size: int | None,
        choices: Choices | None,
        fixed: bool,
    ) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(factual)
        effect_weights = weights if effect_weights is None else effect_weights
        ctx.save_for_backward(factual, counterfactual, head, bias, targets, weights, effect_weights)  # type: ignore[arg-type]
        ctx.options = (softcap, chunk_size, choices, fixed, dtype)  # type: ignore[attr-defined]
        wide = head.detach().to(dtype)
        normal = torch.zeros((), dtype=torch.float64, device=factual.device)
        effect = torch.zeros_like(normal)
        for chunk in _chunks(targets, len(head), chunk_size, choices):
            columns, offset = _select(wide, bias, chunk)
            shown = factual[chunk.tokens].to(dtype)
            logits = _logits(shown, columns, offset, softcap)
            if counterfactual is not None:
                change = _effect_logits(logits, factual, counterfactual, columns, offset, softcap, chunk, dtype)
                effect += (_cross_entropy(change, chunk)[0] * effect_weights[chunk.tokens]).sum()
            normal += (_cross_entropy(logits, chunk)[0] * weights[chunk.tokens]).sum()
        result = torch.promote_types(factual.dtype, torch.float32)
        return normal.to(result), effect.to(result)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        factual, counterfactual, head, bias, targets, weights, effect_weights = ctx.saved_tensors
        softcap, chunk_size, choices, fixed, dtype = ctx.options
        wide = head.detach().to(dtype)
        d_factual = torch.zeros_like(factual)
        d_counterfactual = None if counterfactual is None else torch.zeros_like(counterfactual)
        # Sums over chunks are fp32: in bf16 a chunk's share would vanish beside the sum of those before it.
        d_head = None  # a head that is not trained is spared a third of the work
        if ctx.needs_input_grad[2]:
            d_head = torch.zeros_like(head, dtype=torch.promote_types(head.dtype, torch.float32))
        d_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
        for chunk in _chunks(targets, len(head), chunk_size, choices):
            columns, offset = _select(wide, bias, chunk)
            shown = factual[chunk.tokens].to(dtype)
            logits = _logits(shown, columns, offset, softcap)
            d_shown, d_hidden = None, None
            if counterfactual is not None:
                hidden = counterfactual[chunk.tokens].to(dtype)
                change = _effect_logits(logits, factual, counterfactual, columns, offset, softcap, chunk, dtype)
                unshown = None if softcap is None else logits - change
                d_shown = _slope(change, chunk, slopes[1] * effect_weights[chunk.tokens])
                if not fixed:
                    d_hidden = -d_shown if unshown is None else -d_shown * _cap_slope(unshown, softcap)
            cap = None if softcap is None else _cap_slope(logits, softcap)
            d_logits = _slope(logits, chunk, slopes[0] * weights[chunk.tokens])
            d_logits = d_logits if d_shown is None else d_logits.add_(d_shown)
            d_logits = d_logits if cap is None else d_logits.mul_(cap)
            _add_gradients(d_logits.to(dtype), shown, columns, chunk, d_factual, d_head, d_bias)
            if d_hidden is not None:
                assert d_counterfactual is not None
                _add_gradients(d_hidden.to(dtype), hidden, columns, chunk, d_counterfactual, d_head, d_bias)
        d_bias = None if d_bias is None else d_bias.to(bias.dtype)
        d_head = None if d_head is None else d_head.to(head.dtype)
        return (d_factual, d_counterfactual, d_head, d_bias, *[None] * 7)


def _select(head: Tensor, bias: Tensor | None, chunk: _Chunk) -> tuple[Tensor, Tensor | None]:
    """Return the rows of the head and the bias that a chunk is scored against."""
    if chunk.columns is None:
        return head, bias
    return head[chunk.columns], None if bias is None else bias[chunk.columns]


def _effect_logits(
    logits: Tensor,
    factual: Tensor,
    counterfactual: Tensor,
    head: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    chunk: _Chunk,
    dtype: torch.dtype,
) -> Tensor:
    """Return f(x_h) - f(x_0) [n, V]. The hidden states are subtracted first, where no softcap stands between: in

    bf16 the difference of two rounded logits would keep nothing of a small effect.
    """
    if softcap is None:
        return _logits((factual[chunk.tokens] - counterfactual[chunk.tokens]).to(dtype), head, None, None)
    return logits - _logits(counterfactual[chunk.tokens].to(dtype), head, bias, softcap)


def _cap_slope(logits: Tensor, softcap: float) -> Tensor:
    return 1 - (logits / softcap).square()


def _add_gradients(
    d_logits: Tensor,
    hidden: Tensor,
    head: Tensor,
    chunk: _Chunk,
    d_hidden: Tensor,
    d_head: Tensor | None,
    d_bias: Tensor | None,
) -> None:
    """Add what one chunk's logits owe to the hidden states, the head and the bias."""
    d_hidden[chunk.tokens] += (d_logits @ head).to(d_hidden.dtype)
    if d_head is None:
        pass
    elif chunk.columns is not None:
        d_head.index_add_(0, chunk.columns, (d_logits.T @ hidden).to(d_head.dtype))
    elif d_head.dtype == d_logits.dtype:
        d_head.addmm_(d_logits.T, hidden)
    else:
        d_head += d_logits.T @ hidden
    if d_bias is not None:
        d_b = d_logits.sum(0).to(d_bias.dtype)
        d_bias.index_add_(0, chunk.columns, d_b) if chunk.columns is not None else d_bias.add_(d_b)
