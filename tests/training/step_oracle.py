"""The published objective, one sequence at a time through the whole model, with full logits in plain torch."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Parts(NamedTuple):
    loss: Tensor
    normal: Tensor
    effect: Tensor
    prior: Tensor


def history(data: Any, position: int, window: int, stride: int) -> list[int]:
    """The items that a sample shows: slide a window of `window` items by `stride` until it reaches the target."""
    user = int(np.searchsorted(data.offsets, position, side="right")) - 1
    first = int(data.offsets[user])
    start = first
    while position - start > window:
        start += stride
    return data.events[start:position].tolist()


def continuations(sequences: list[tuple[int, ...]], prefix: tuple[int, ...]) -> list[int]:
    """Tokens that continue some title after a prefix."""
    return sorted({s[len(prefix)] for s in sequences if s[: len(prefix)] == prefix and len(s) > len(prefix)})


def naive_step(
    model: Any,
    data: Any,
    prompt: Any,
    catalogue: Any,
    positions: list[int],
    weights: Tensor,
    effect_weights: Tensor | None = None,
    *,
    window: int,
    stride: int,
    softmax: str = "vocabulary",
    effect_weight: float = 0.1,
    prior_weight: float = 0.0,
    detach: bool = False,
    denominator: float | None = None,
    temperature: float = 1.0,
) -> Parts:
    """Compute the losses of some targets.

    Args:
        model: any transformers causal language model; its own forward, one unpadded sequence at a time.
        data: the log.
        prompt: x_h and x_0.
        catalogue: the token sequences.
        positions: event positions of the targets.
        weights: of the weighted tokens, target after target.
        effect_weights: other weights for the effect term; default `weights`.
        window: W.
        stride: s.
        softmax: "catalogue" normalises over the tokens that continue a title, and weighs none where only one does.
        effect_weight: lambda.
        prior_weight: of CE(f(x_0), y).
        detach: whether the effect's gradient stops at f(x_0).
        denominator: D; default the sum of the weights.
        temperature: tau; every cross-entropy is tau CE(. / tau).
    """
    sequences = [tuple(catalogue.sequence(item).tolist()) for item in range(len(catalogue))]
    longest = max(map(len, sequences))
    columns = (weights, weights if effect_weights is None else effect_weights, weights)
    sums = [torch.zeros(()), torch.zeros(()), torch.zeros(())]
    used = 0

    def logits(before: list[int], target: tuple[int, ...]) -> Tensor:
        tokens = torch.tensor([[*before, *target]])
        return model(input_ids=tokens, use_cache=False).logits[0, len(before) - 1 : -1]

    for position in positions:
        target = sequences[int(data.events[position])]
        seen = [np.array(sequences[item]) for item in history(data, position, window, stride)]
        shown = logits(prompt.factual(seen, longest).tolist(), target)
        unshown = logits(prompt.counterfactual().tolist(), target)
        kept = unshown.detach() if detach else unshown
        for place, token in enumerate(target):
            candidates = list(range(shown.shape[1]))
            if softmax == "catalogue":
                candidates = continuations(sequences, target[:place])
                if len(candidates) == 1:
                    continue
            at = candidates.index(token)
            terms = (shown[place], shown[place] - kept[place], unshown[place])
            for number, values in enumerate(terms):
                log_p = (values[candidates] / temperature).log_softmax(0)[at]
                sums[number] = sums[number] - temperature * columns[number][used] * log_p
            used += 1
    assert used == len(weights)
    total = weights.sum() if denominator is None else denominator
    normal, effect, prior = (value / total for value in sums)
    return Parts(normal + effect_weight * effect + prior_weight * prior, normal, effect, prior)


def naive_weights(data: Any, catalogue: Any, positions: list[int], weighting: str, beta: float, softmax: str) -> Tensor:
    """The weights of some targets' tokens, by the formulas of the papers, token by token."""
    sequences = [tuple(catalogue.sequence(item).tolist()) for item in range(len(catalogue))]
    counts = catalogue.counts if catalogue.counts.any() else np.ones(len(catalogue))
    shares = counts / counts.sum()

    def entropy(prefix: tuple[int, ...]) -> float:
        under = [p for p, s in zip(shares, sequences, strict=True) if s[: len(prefix)] == prefix and p > 0]
        return float(-sum(p * np.log(p) for p in under))

    weights: list[float] = []
    for position in positions:
        target = sequences[int(data.events[position])]
        places = [
            place
            for place in range(len(target))
            if softmax == "vocabulary" or len(continuations(sequences, target[:place])) > 1
        ]
        for number, place in enumerate(places):
            if weighting == "linear":
                weights.append(1 if len(places) == 1 else 1 - (1 - beta) * number / (len(places) - 1))
            elif weighting == "uniform":
                weights.append(1)
            else:
                gain = entropy(target[:place]) - entropy(target[: place + 1])
                weights.append(1 if gain > 1e-9 else beta)
    return torch.tensor(weights)


def naive_gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter that is trained, zeros where there is none."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference beside the largest entry."""
    difference = (found.double() - expected.double()).abs().max().item()
    largest = expected.abs().max().item()
    return difference / largest if largest else difference
