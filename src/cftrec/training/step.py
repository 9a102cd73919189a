"""One optimizer step's loss and gradients, whatever number of passes it takes."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cftrec.forest.backbone import forest_hidden, head_of
from cftrec.objective.loss import CFTLoss, Choices, cft_loss, weighted_cross_entropy
from cftrec.objective.temperature import Temperature
from cftrec.training.collator import Batch


class StepLoss(NamedTuple):
    """0-dim tensors. Only `loss` has a gradient; `prior` is before `prior_weight`."""

    loss: Tensor
    normal: Tensor
    effect: Tensor
    prior: Tensor


class CFTStep(nn.Module):
    """A causal language model with the objective of counterfactual fine-tuning.

    In training mode `forward` already runs the backward pass of every part, so that the memory of one pass is all it
    needs, and hands the gradients on when `backward` is called on its loss: to DistributedDataParallel, gradient
    accumulation and the optimizer it looks like any module with one loss.

    With a temperature tau each part of the loss is tau CE(. / tau), as in MSL's adaptive one, so that slopes stay w
    times a difference of probabilities; without gradients tau is 1, as for the log p that decoding ranks by.

    Args:
        model: a transformers causal language model, or a `peft.PeftModel` around one.
        effect_weight: lambda. Training takes `effect_share` of it, which whoever begins a step may set.
        prior_weight: weight of CE(f(x_0), y).
        detach_counterfactual: stop the effect term's gradient through f(x_0).
        temperature: tau; default 1. An adaptive one sees the steps' logits here; whoever ends a step moves it.
    """

    def __init__(
        self,
        model: Any,
        effect_weight: float,
        prior_weight: float,
        detach_counterfactual: bool,
        temperature: Temperature | None = None,
    ) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature or Temperature()
        self.effect_weight, self.prior_weight, self.detach = effect_weight, prior_weight, detach_counterfactual
        self.effect_share = 1.0

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Let the language model compute its activations again in backward (`transformers.Trainer` calls this)."""
        self.model.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Do the same under the names that transformers used before."""
        self.activation_checkpointing_enable(activation_checkpointing_kwargs=gradient_checkpointing_kwargs, **options)

    def forward(self, batch: Batch, denominator: Tensor | float | None = None) -> StepLoss:
        """Return the losses of a batch.

        Args:
            batch: of `StepCollator`. `factual` and `counterfactual` (absent where lambda and prior weight are 0) are
                lists of passes; `targets` int64 [N], `weights` [N] and `effect_weights` [N] (absent where equal to
                `weights`) follow the factual passes' `nodes`; `rows` int64 [N] says which of the counterfactual
                passes' hidden states belongs to each (where all fits one pass, there are no counterfactual passes: the
                only factual one's `nodes` go on with theirs); `choice_offsets`, `choice_tokens` give the catalogue
                softmax's tokens, and `first_choices` bool [N] where a title makes its first choice.
            denominator: D; default sum w of the batch. Give the sum over the whole optimizer step where it has
                several batches.
        """
        scale = batch["weights"].sum() if denominator is None else denominator
        # Nothing to choose: a loss of 0, not 0/0; and slopes of 0, whatever finite factors they have.
        scale = torch.as_tensor(scale).clamp(min=1e-30)
        if not (self.training and torch.is_grad_enabled()):
            return self._losses(batch, scale, None)
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return StepLoss(*_GradientsInForward.apply(self, batch, scale, *parameters))

    def _losses(self, batch: Batch, scale: Tensor | float, gradients: "_Gradients | None") -> StepLoss:
        """Run the passes; with `gradients`, each pass's backward as soon as its loss is known."""
        temperature = 1.0 if gradients is None else self.temperature.value
        effect_weight = self.effect_weight * (1.0 if gradients is None else self.effect_share)
        scale = scale / temperature
        together = "rows" in batch and "counterfactual" not in batch
        before = batch["factual"] if together else batch.get("counterfactual", [])
        hidden_0 = torch.cat([self._hidden(part) for part in before]) if before else None
        leaf = None if hidden_0 is None else hidden_0.detach().requires_grad_(gradients is not None)
        passes: Iterator[Tensor] = (self._hidden(part) for part in batch["factual"])
        unshown = leaf
        if together and leaf is not None:
            shown, unshown = leaf.tensor_split([len(batch["targets"])])
            passes = iter([shown])
        total = batch["weights"].new_zeros(3)
        begin = 0
        for shown in passes:
            own = slice(begin, begin + len(shown))
            begin = own.stop
            if gradients is not None and self.temperature.adaptive:
                self._observe(shown, batch, own)
            loss = self._effect(shown, unshown, batch, own, scale, effect_weight, temperature)
            total[0] += loss.normal.detach()
            total[1] += loss.effect.detach()
            if gradients is not None:
                gradients.add(loss.total, leaf if together or not self.detach else None)
        if unshown is not None and self.prior_weight:
            prior = self._prior(unshown, batch, temperature) / scale
            total[2] += prior.detach()
            if gradients is not None:
                gradients.add(self.prior_weight * prior, leaf)
        if gradients is not None and hidden_0 is not None and gradients.of_leaf is not None:
            gradients.add(hidden_0, None, gradients.of_leaf)
        normal, effect, prior = total
        return StepLoss(normal + effect_weight * effect + self.prior_weight * prior, normal, effect, prior)

    def _hidden(self, part: Batch) -> Tensor:
        """Return a pass's wanted hidden states [M, H]."""
        hidden = forest_hidden(self.model, part["tokens"], part.get("depth"), part.get("end"), part.get("cuts"))
        return hidden.flatten(0, 1)[part["nodes"]]

    @torch.no_grad()
    def _observe(self, shown: Tensor, batch: Batch, own: slice) -> None:
        """Let the temperature see what one factual pass's titles choose from first: the same tokens for all of them."""
        first, choices = batch["first_choices"][own].nonzero()[:, 0], _choices(batch, own)
        if choices is None or not len(first):
            return
        head, candidates = head_of(self.model), choices.tokens[slice(*choices.offsets[first[0] :][:2])]
        bias = None if head.bias is None else head.bias[candidates]
        places = candidates == batch["targets"][own][first, None]
        self.temperature.observe(shown[first], head.weight[candidates], places, bias=bias, softcap=head.softcap)

    def _effect(
        self,
        shown: Tensor,
        unshown: Tensor | None,
        batch: Batch,
        own: slice,
        scale: Tensor | float,
        effect_weight: float,
        temperature: float,
    ) -> CFTLoss:
        """Return the losses of one factual pass; without a counterfactual its effect is 0."""
        head = head_of(self.model)
        targets, weights = batch["targets"][own], batch["weights"][own]
        if unshown is None:
            normal = weighted_cross_entropy(
                shown,
                head.weight,
                targets,
                weights,
                bias=head.bias,
                softcap=head.softcap,
                choices=_choices(batch, own),
                temperature=temperature,
            )
            return CFTLoss(normal / scale, normal / scale, torch.zeros_like(normal))
        unshown = unshown[batch["rows"][own]]
        return cft_loss(
            shown,
            unshown.detach() if self.detach else unshown,
            head.weight,
            targets,
            weights,
            effect_weight=effect_weight,
            effect_weights=batch["effect_weights"][own] if "effect_weights" in batch else None,
            bias=head.bias,
            softcap=head.softcap,
            denominator=scale,
            choices=_choices(batch, own),
            fixed_counterfactual=self.detach,
            temperature=temperature,
        )

    def _prior(self, unshown: Tensor, batch: Batch, temperature: float) -> Tensor:
        head, whole = head_of(self.model), slice(0, len(batch["targets"]))
        return weighted_cross_entropy(
            unshown[batch["rows"]],
            head.weight,
            batch["targets"],
            batch["weights"],
            bias=head.bias,
            softcap=head.softcap,
            choices=_choices(batch, whole),
            temperature=temperature,
        )


def _choices(batch: Batch, own: slice) -> Choices | None:
    """Return the catalogue's choices for the weighted tokens of one pass."""
    if "choice_offsets" not in batch:
        return None
    offsets = batch["choice_offsets"][own.start : own.stop + 1]
    return Choices(offsets - offsets[0], batch["choice_tokens"][offsets[0] : offsets[-1]])


class _Gradients:
    """Sums of gradients over the passes of a step, for the parameters and for the counterfactual hidden states."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.sums: list[Tensor | None] = [None] * len(parameters)
        self.of_leaf: Tensor | None = None

    def add(self, output: Tensor, leaf: Tensor | None, slope: Tensor | None = None) -> None:
        """Back-propagate `output` into the parameters and `leaf`."""
        if not output.requires_grad:  # hidden states, where the head alone is trained
            return
        inputs = self.parameters if leaf is None else [*self.parameters, leaf]
        # Autocast chooses dtypes in the forward pass; backward follows those and must not choose again.
        with torch.autocast(output.device.type, enabled=False):
            found = torch.autograd.grad(output, inputs, slope, allow_unused=True)
        if leaf is not None and found[-1] is not None:
            self.of_leaf = found[-1] if self.of_leaf is None else self.of_leaf.add_(found[-1])
        for index, gradient in enumerate(found[: len(self.parameters)]):
            known = self.sums[index]
            if known is None:
                self.sums[index] = gradient
            elif gradient is not None:
                known.add_(gradient)


class _GradientsInForward(torch.autograd.Function):
    """Computes the gradients while it computes the loss; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, step: CFTStep, batch: Batch, scale: Tensor | float, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        gradients = _Gradients(list(parameters))
        with torch.enable_grad():
            losses = step._losses(batch, scale, gradients)
        ctx.gradients = gradients.sums
        outputs = tuple(value.detach() for value in losses)
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        for gradient in ctx.gradients:
            if gradient is not None:
                gradient.mul_(slopes[0])
        gradients, ctx.gradients = ctx.gradients, None
        return (None, None, None, *gradients)
