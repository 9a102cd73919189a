"""What a causal language model offers to forests: hidden states under an ancestor mask, and an affine head."""

from typing import Any, NamedTuple

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from cftrec.errors import InputError
from cftrec.forest.build import build_forest
from cftrec.forest.masks import ancestor_mask, attention_mask


class Head(NamedTuple):
    """The affine head: logits = cap(scale * (h @ weight.T + bias)).

    Attributes:
        weight: [V, H]; of a head with a LoRA adapter, W + scaling * B A.
        bias: [V] or None.
        softcap: c where logits become c * tanh(logits / c) (Gemma 2), else None.
        scale: factor on the logits (Granite divides by `logits_scaling`, Cohere multiplies by `logit_scale`).
    """

    weight: Tensor
    bias: Tensor | None
    softcap: float | None
    scale: float


def causal_lm(model: Any) -> Any:
    """Return the transformers model inside the wrapper that PEFT puts around it; its layers hold the adapters."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def head_of(model: Any) -> Head:
    """Return the head of a transformers causal language model, with or without adapters.

    Raises:
        InputError: an adapter makes the head something else than one weight and one bias.
    """
    layer = model.get_output_embeddings()
    softcap = getattr(model.config, "final_logit_softcapping", None)
    return Head(_head_weight(layer), getattr(layer, "bias", None), softcap, logit_scale(model.config))


def logit_scale(config: Any) -> float:
    """Return the factor on the logits that a model's config asks for."""
    return 1 / getattr(config, "logits_scaling", 1.0) * getattr(config, "logit_scale", 1.0)


def _head_weight(layer: Any) -> Tensor:
    """Return the weight of a head; of a LoRA head, that of both parts, through which gradients reach B and A."""
    if not isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
        return layer.weight
    plain = isinstance(layer, LoraLinear) and not layer.lora_variant and not any(layer.lora_bias.values())
    if not plain or not all(isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values()):
        raise InputError(
            "the head has an adapter that is no plain LoRA without dropout and bias, and the loss needs its one "
            "weight; leave the head out of the adapter's targets, or set the dropout to 0"
        )
    adapters = [] if layer.merged or layer.disable_adapters else layer.active_adapters
    return sum((layer.get_delta_weight(name) for name in adapters), layer.weight)


def forest_hidden(model: Any, tokens: Tensor, depth: Tensor, end: Tensor) -> Tensor:
    """Return the last hidden states [R, L, H], scaled so that the head's weight alone gives logits.

    Args:
        model: a transformers causal language model.
        tokens: int64 [R, L].
        depth: int64 [R, L], the position ids.
        end: int64 [R, L], subtree ends (`ancestor_mask`).
    """
    mask = attention_mask(ancestor_mask(end), depth, depth, model.config, model.dtype)
    backbone = causal_lm(model).base_model
    output = backbone(input_ids=tokens, attention_mask=mask, position_ids=depth, use_cache=False)
    scale = logit_scale(model.config)
    return output.last_hidden_state if scale == 1 else output.last_hidden_state * scale


def check_forest(model: Any) -> None:
    """Compare a small branching forest with the model's own forward pass, logits and one gradient.

    Raises:
        InputError: the model computes something else under an ancestor mask (state-space and linear-attention layers,
            position biases that ignore position ids), so a forest would train another function than the model's.
    """
    rng = np.random.default_rng(0)
    limit = min(model.config.vocab_size, 1000)
    trunk = rng.integers(0, limit, 5)
    # Layers that count a window of their own along the row (GPT-Neo) show it only in a row longer than that window.
    more = (getattr(model.config, "window_size", None) or 0) // 4
    branches = [(5, 4), (5, 6), (2, 3), *[(5, 4)] * more]
    sequences = [np.concatenate([trunk[:cut], rng.integers(0, limit, tail)]) for cut, tail in branches]
    name, training = type(causal_lm(model)).__name__, model.training
    embedding = model.get_input_embeddings().weight
    trained = embedding.requires_grad
    model.eval()
    embedding.requires_grad_()  # frozen where only adapters are trained
    try:
        shared, alone = _both_ways(model, sequences)
    except InputError:
        raise
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{name} cannot run on prefix forests ({reason}); choose another model") from error
    finally:
        model.train(training)
        embedding.requires_grad_(trained)
    for part, a, b in zip(("logits", "gradient"), shared, alone, strict=True):
        difference = ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()
        if not difference < (1e-3 if a.dtype == torch.float32 else 0.1):
            raise InputError(
                f"{name} gives other {part} on a prefix forest than on its own (relative difference {difference:.1g}): "
                "its layers do not honour attention masks and position ids; choose another model"
            )


def _both_ways(model: Any, sequences: list[Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Return [logits, gradient of the embedding] computed as one forest and as single sequences."""
    forest, device = build_forest(sequences), model.device
    rows = [torch.from_numpy(array)[None].to(device) for array in (forest.tokens, forest.depth, forest.end)]
    head, embedding = head_of(model), model.get_input_embeddings().weight
    index = torch.from_numpy(np.concatenate(forest.paths)).to(device)
    hidden = forest_hidden(model, *rows)[0, index]
    shared = nn.functional.linear(hidden, head.weight, None if head.bias is None else head.scale * head.bias)
    if head.softcap is not None:
        shared = head.softcap * torch.tanh(shared / head.softcap)
    alone = torch.cat(
        [
            model(input_ids=torch.from_numpy(sequence)[None].to(device), use_cache=False).logits[0]
            for sequence in sequences
        ]
    )
    direction = torch.linspace(-1, 1, shared.numel(), device=device).reshape(shared.shape).cos()
    results = []
    for logits in (shared, alone):
        (gradient,) = torch.autograd.grad((logits.float() * direction).sum(), embedding)
        results.append([logits.detach(), gradient])
    return results[0], results[1]
