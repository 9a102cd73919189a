"""The CFT objective on hidden states, in blocks: no tensor of [tokens x vocabulary] is ever held, no copy of the head.

The head is affine, so f(x_h) - f(x_0) = W (h1 - h0): the effect's logits cost one product with the difference of the
hidden states, and the loss is a weighted cross-entropy of twice as many rows. The head is cut along the vocabulary: a
block's part of the normaliser, and later its gradient, is finished before the next block begins, so that whatever else
is held is bounded by `CHUNK_BYTES` and `KEPT_BYTES`, not by the vocabulary. Backward forms each block's logits again
where they are too many to be kept.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_BYTES = 8 * 2**20
"""Default budget in bytes of a block's fp32 logits; the loss holds about three tensors of this size at a time.

Small enough for a CPU's cache, where the passes over a block cost less than from memory; a GPU, which wants larger
products, gets `GPU_CHUNKS` times as much.
"""

KEPT_BYTES = 16 * 2**20
"""Most bytes of logits, in the dtype of the products, that are kept for backward: all of them, or else none."""

GPU_CHUNKS = 8
"""Budget of a GPU over that of a CPU."""

GROUP = 2048
"""Most tokens of a block: many more would leave it few rows of the head, which makes the products slow."""


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
    temperature: float = 1.0,
) -> CFTLoss:
    """Counterfactual fine-tuning loss (arXiv 2410.22809), exact in value and in every gradient.

    `normal` = sum w CE(f(x_h), y) / D and `effect` = sum w' CE(f(x_h) - f(x_0), y) / D.

    Args:
        factual: [N, H] hidden states that predict the target tokens, history shown (x_h).
        counterfactual: [N, H] the same positions with no history (x_0).
        head: [V, H] output embedding W.
        targets: int64 [N].
        weights: [N] token weights w, taken for constants.
        effect_weight: lambda. Default as in the authors' code.
        effect_weights: [N] other weights w' for the effect term; default `weights`.
        bias: [V] bias of the head; it cancels in the effect term unless `softcap` is given.
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2), in both branches before they are subtracted.
        denominator: D; default sum w. Give the whole optimizer step's sum where a step is computed in parts.
        chunk_size: bound on a block's logits, in full rows of V (several tokens may share it); default `CHUNK_BYTES`.
        choices: normalise over these tokens instead of the whole vocabulary (arXiv 2504.04178).
        fixed_counterfactual: take the logits f(x_0) for constants: no gradient reaches `counterfactual`, nor the head
            and the bias by way of f(x_0). (A detached `counterfactual` alone still lets the head's W h_0 be trained.)
        temperature: tau, a constant that divides the logits of both terms, after any `softcap`.

    Returns:
        The three losses; gradients flow into both hidden states, the head and the bias.

    Raises:
        ValueError: shapes that do not fit, a target outside 0 to V - 1 (such as the -100 of ignored labels: leave these
            tokens out), a `chunk_size` below 1, or a `softcap` or `temperature` that is not above 0.
        RuntimeError: in backward, under `create_graph=True`: there is no second derivative.
    """
    targets = _checked(factual, counterfactual, head, bias, targets, weights, softcap, chunk_size, temperature)
    if effect_weights is not None and effect_weights.shape != weights.shape:
        raise ValueError(f"effect_weights are {tuple(effect_weights.shape)}, where weights are {tuple(weights.shape)}")
    weights = weights.detach()
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
        temperature,
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
    temperature: float = 1.0,
) -> Tensor:
    """Return sum w CE(f / tau, y), a 0-dim tensor, with the arguments of `cft_loss`; the same blocks and gradients."""
    targets = _checked(hidden, None, head, bias, targets, weights, softcap, chunk_size, temperature)
    inputs = (hidden, None, head, bias, targets, weights, None)
    return _Terms.apply(*inputs, softcap, chunk_size, choices, False, temperature)[0]


def _checked(
    factual: Tensor,
    counterfactual: Tensor | None,
    head: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    softcap: float | None,
    chunk_size: int | None,
    temperature: float,
) -> Tensor:
    """Return the targets as int64; a block without a target's column would leave a wrong one unnoticed."""
    if counterfactual is not None and counterfactual.shape != factual.shape:
        raise ValueError(f"counterfactual is {tuple(counterfactual.shape)}, where factual is {tuple(factual.shape)}")
    for name, given in (("targets", targets), ("weights", weights)):
        if given.shape != factual.shape[:1]:
            raise ValueError(f"{name} are {tuple(given.shape)}, where factual has {len(factual)} tokens")
    if head.ndim != 2 or head.shape[1:] != factual.shape[1:]:
        raise ValueError(f"head is {tuple(head.shape)}, where factual is {tuple(factual.shape)}")
    if bias is not None and bias.shape != head.shape[:1]:
        raise ValueError(f"bias is {tuple(bias.shape)}, where the head has {len(head)} rows")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap must be above 0, not {softcap}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    targets = targets.long()
    if len(targets) and not (int(targets.min()) >= 0 and int(targets.max()) < len(head)):
        raise ValueError(f"targets must be from 0 to {len(head) - 1}; leave out the tokens that have none")
    return targets


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which products of `tensor` are formed here: autocast's where it is on, else its own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


class _Group(NamedTuple):
    """Tokens that meet a block's rows of the head.

    Attributes:
        tokens: which of the N.
        labels: int64 [n], the column of each target; of a target in another block, a number outside this one's.
        allowed: bool [n, columns], the columns that each token compares; None: all.
    """

    tokens: slice | Tensor
    labels: Tensor
    allowed: Tensor | None


class _Block(NamedTuple):
    """Some rows of the head, which are the columns of the logits, and the tokens that are scored against them."""

    columns: slice | Tensor
    groups: list[_Group]


def _blocks(
    targets: Tensor, head: Tensor, branches: int, chunk_size: int | None, choices: Choices | None
) -> Iterator[_Block]:
    """Cut [tokens x vocabulary] so that the logits of a group, of all branches, keep the budget.

    Without choices every row of the head is in one block alone, so its gradient is finished there.
    """
    vocabulary, width = head.shape
    scale = 1 if head.device.type == "cpu" else GPU_CHUNKS
    budget = scale * CHUNK_BYTES // 4 if chunk_size is None else chunk_size * vocabulary
    if choices is not None:
        compared = torch.zeros(vocabulary, dtype=torch.bool, device=head.device)
        compared[choices.tokens] = True
        yield from _choice_blocks(targets, choices, max(1, budget // (branches * max(1, int(compared.sum())))))
        return
    size = max(1, min(len(targets), GROUP, budget // branches))
    columns = max(1, budget // max(branches * size, width))  # the block's gradient keeps the budget, too
    tokens = [slice(first, first + size) for first in range(0, len(targets), size)]
    for begin in range(0, vocabulary, columns):
        yield _Block(slice(begin, begin + columns), [_Group(part, targets[part] - begin, None) for part in tokens])


def _choice_blocks(targets: Tensor, choices: Choices, size: int) -> Iterator[_Block]:
    """Give each group of tokens a block of its own: the rows of the head that any of them compares."""
    # Tokens with as many candidates meet in a block (the root's come together), so their union stays small.
    counts = choices.offsets.diff()
    for index in torch.argsort(counts, descending=True, stable=True).split(size):
        owner = torch.repeat_interleave(torch.arange(len(index), device=index.device), counts[index])
        first = torch.repeat_interleave(choices.offsets[index] - counts[index].cumsum(0) + counts[index], counts[index])
        candidates = choices.tokens[first + torch.arange(len(first), device=index.device)]
        columns, column = torch.unique(candidates, return_inverse=True)
        allowed = torch.zeros(len(index), len(columns), dtype=torch.bool, device=index.device)
        allowed[owner, column] = True
        yield _Block(columns, [_Group(index, torch.searchsorted(columns, targets[index]), allowed)])


def _rows(factual: Tensor, counterfactual: Tensor | None, softcap: float | None, dtype: torch.dtype) -> Tensor:
    """Return what the head multiplies, [branches, N, H]: h1, and where there is a counterfactual h1 - h0.

    In bf16 the difference of two rounded logits would keep nothing of a small effect. Only where a softcap stands
    between the head and the difference, the second branch is h0 itself.
    """
    if counterfactual is None:
        return factual[None].to(dtype)
    other = factual - counterfactual if softcap is None else counterfactual
    return torch.stack([factual.to(dtype), other.to(dtype)])


def head_products(rows: Tensor, head: Tensor) -> Tensor:
    """Return [branches, n, columns]: [branches, n, H] rows times [columns, H] of the head, in their dtype."""
    return (rows.flatten(0, 1) @ head.T).unflatten(0, rows.shape[:2])


def block_logits(
    products: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    allowed: Tensor | None = None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """Return the logits that are compared, [branches, n, columns] in fp32, of f(x_h) and of the effect.

    And under a softcap those of f(x_h) and f(x_0), which no temperature divides. Not allowed is -inf. `products`
    (`head_products`) stay as they are.
    """
    logits = products.to(_wide(products.dtype), copy=True)
    if bias is not None:
        (logits if softcap is not None else logits[0]).add_(bias)  # it cancels in the effect
    capped = None
    if softcap is not None:
        capped = logits.div_(softcap).tanh_().mul_(softcap)
        logits = torch.stack([capped[0], *(capped[0] - unshown for unshown in capped[1:])])
    if temperature != 1:
        logits.div_(temperature)
    if allowed is not None:
        logits.masked_fill_(~allowed, -torch.inf)
    return logits, capped


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums: fp32, or fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


def _at_labels(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the column of each target [branches, n, 1], any column for a target elsewhere, and whether it is here."""
    shape = (len(logits), len(labels), 1)
    here = (labels >= 0) & (labels < logits.shape[2])
    return labels.clamp(0, logits.shape[2] - 1)[None, :, None].expand(shape), here[None, :, None].expand(shape)


class _Terms(torch.autograd.Function):
    """(sum w normal, sum w' effect); the effect is 0 where no counterfactual is given."""

    @staticmethod
    def forward(
        ctx: Any,
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
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(factual)
        rows = _rows(factual, counterfactual, softcap, dtype)
        normaliser = torch.full(rows.shape[:2], -torch.inf, dtype=_wide(dtype), device=rows.device)
        label_logits = torch.zeros_like(normaliser)
        size = rows.shape[:2].numel() * len(head) * rows.element_size()
        kept: list[Tensor] | None = [] if choices is None and chunk_size is None and size <= KEPT_BYTES else None
        for block in _blocks(targets, head, len(rows), chunk_size, choices):
            columns, offset = _select(head, bias, block, dtype)
            for tokens, labels, allowed in block.groups:
                products = head_products(rows[:, tokens], columns)
                if kept is not None:
                    kept.append(products)
                logits, _ = block_logits(products, offset, softcap, allowed, temperature)
                column, here = _at_labels(logits, labels)
                label_logits[:, tokens] += torch.where(here, logits.gather(2, column), 0)[..., 0]
                normaliser[:, tokens] = torch.logaddexp(normaliser[:, tokens], logits.logsumexp(2))
        effect_weights = weights if effect_weights is None else effect_weights
        ctx.save_for_backward(factual, counterfactual, head, bias, targets, weights, effect_weights, normaliser)
        ctx.options = (softcap, chunk_size, choices, fixed, temperature, dtype)
        ctx.kept = kept if any(ctx.needs_input_grad) else None
        result = _wide(factual.dtype)
        normal, *effect = (normaliser - label_logits).double() * torch.stack([weights, effect_weights])[: len(rows)]
        return normal.sum().to(result), sum(effect, torch.zeros_like(normal)).sum().to(result)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        # The gradient has no graph, and `once_differentiable` would only tell where the slopes have one.
        if torch.is_grad_enabled():
            raise RuntimeError("the loss has no second derivative; take its gradient without create_graph=True")
        factual, counterfactual, head, bias, targets, weights, effect_weights, normaliser = ctx.saved_tensors
        softcap, chunk_size, choices, fixed, temperature, dtype = ctx.options
        rows = _rows(factual, counterfactual, softcap, dtype)
        # A slope is one number, by which torch would leave a product in the dtype of the weights, however narrow.
        weights, effect_weights = weights.to(normaliser.dtype), effect_weights.to(normaliser.dtype)
        scale = torch.stack([slopes[0] * weights, slopes[1] * effect_weights])[: len(rows)] / temperature
        # Fixed logits f(x_0) leave the head and the bias the share of f(x_h) alone.
        seen = rows[:1].expand_as(rows) if fixed and softcap is None else rows
        biased = slice(None) if fixed or softcap is not None else slice(1)
        d_rows = torch.zeros_like(rows, dtype=_wide(dtype))
        d_head = _empty_gradient(head, choices) if ctx.needs_input_grad[2] else None
        d_bias = _empty_gradient(bias, choices) if ctx.needs_input_grad[3] else None
        kept = None if ctx.kept is None else iter(ctx.kept)
        for block in _blocks(targets, head, len(rows), chunk_size, choices):
            columns, offset = _select(head, bias, block, dtype)
            of_columns: Tensor | None = None
            of_offset: Tensor | None = None
            for tokens, labels, allowed in block.groups:
                products = head_products(rows[:, tokens], columns) if kept is None else next(kept)
                logits, capped = block_logits(products, offset, softcap, allowed, temperature)
                slope = _slope(logits, normaliser[:, tokens], labels, scale[:, tokens])
                if capped is not None:
                    slope = _through_cap(slope, capped, softcap, fixed)
                if d_bias is not None:
                    of_offset = _add(of_offset, slope[biased].sum((0, 1)))
                narrow = slope.to(dtype).flatten(0, 1)
                d_rows[:, tokens] += (narrow @ columns).unflatten(0, slope.shape[:2])
                if d_head is not None:
                    of_columns = _add(of_columns, narrow.T @ seen[:, tokens].flatten(0, 1))
            _put(d_head, block.columns, of_columns)
            _put(d_bias, block.columns, of_offset)
        d_factual, *d_other = d_rows if softcap is not None else (d_rows.sum(0), *(-branch for branch in d_rows[1:]))
        d_counterfactual = None
        if counterfactual is not None:
            d_counterfactual = torch.zeros_like(counterfactual) if fixed else d_other[0].to(counterfactual.dtype)
        return (
            d_factual.to(factual.dtype),
            d_counterfactual,
            None if d_head is None else d_head.to(head.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
            *[None] * 8,
        )


def _select(head: Tensor, bias: Tensor | None, block: _Block, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return the rows of the head, in the dtype of the products, and the bias that a block is scored against."""
    return head.detach()[block.columns].to(dtype), None if bias is None else bias[block.columns]


def _slope(logits: Tensor, normaliser: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Return d sum(scale CE) / d logits, in place of the logits."""
    logits.sub_(normaliser[..., None]).exp_()
    column, here = _at_labels(logits, labels)
    logits.scatter_add_(2, column, -here.to(logits.dtype))
    return logits.mul_(scale[..., None])


def _through_cap(slope: Tensor, capped: Tensor, softcap: float, fixed: bool) -> Tensor:
    """Turn slopes for f(x_h) and the effect into slopes for the logits of f(x_h) and f(x_0) before their cap."""
    unshown = slope.new_zeros(slope[1:].shape) if fixed else -slope[1:]
    return torch.cat([slope.sum(0, keepdim=True), unshown]).mul_(1 - (capped / softcap).square())


def _add(total: Tensor | None, share: Tensor) -> Tensor:
    """Add in fp32: in bf16 a share would vanish beside the sum of those before it."""
    return share if total is None else total.to(_wide(total.dtype)).add_(share)


def _empty_gradient(parameter: Tensor, choices: Choices | None) -> Tensor:
    """Return a tensor that `_put` fills; with choices, where a row's gradient is summed over blocks, zeros in fp32."""
    if choices is None:
        return torch.empty_like(parameter)
    return torch.zeros_like(parameter, dtype=_wide(parameter.dtype))


def _put(gradient: Tensor | None, columns: slice | Tensor, part: Tensor | None) -> None:
    """Put a block's gradient in its place; None for the part is zero, None for the whole is not wanted."""
    if gradient is None:
        return
    if isinstance(columns, slice):
        gradient[columns] = 0 if part is None else part
    elif part is not None:
        gradient.index_add_(0, columns, part.to(gradient.dtype))
