"""What a causal language model offers: hidden states of forests or of padded rows, and an affine head."""

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
    """The affine head of scaled hidden states (`forest_hidden`): logits = cap(h @ weight.T + bias).

    Attributes:
        weight: [V, H]; of a head with a LoRA adapter, W + scaling * B A.
        bias: [V] or None, scaled as the hidden states are.
        softcap: c where logits become c * tanh(logits / c) (Gemma 2), else None.
    """

    weight: Tensor
    bias: Tensor | None
    softcap: float | None


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
    scale, bias = logit_scale(model.config), getattr(layer, "bias", None)
    return Head(_head_weight(layer), bias if bias is None or scale == 1 else scale * bias, softcap)


def logit_scale(config: Any) -> float:
    """Return the factor on the logits that a model's config asks for (Granite, Cohere, Falcon-H1)."""
    scale = getattr(config, "logit_scale", 1.0) * getattr(config, "lm_head_multiplier", 1.0)
    return scale / getattr(config, "logits_scaling", 1.0)


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


def forest_hidden(model: Any, tokens: Tensor, depth: Tensor | None = None, end: Tensor | None = None) -> Tensor:
    """Return the last hidden states [R, L, H], scaled so that the head's weight alone gives logits.

    Without `depth` and `end` each row is one sequence, filled up on the right: what comes later changes nothing in a
    causal model, so the model's own computation serves, whatever its layers are, and takes no mask.

    Args:
        model: a transformers causal language model.
        tokens: int64 [R, L].
        depth: int64 [R, L], the position ids.
        end: int64 [R, L], subtree ends (`ancestor_mask`).
    """
    options: dict[str, Any] = {}
    if depth is not None and end is not None:
        mask = attention_mask(ancestor_mask(end), depth, depth, model.config, model.dtype)
        options = {"attention_mask": mask, "position_ids": depth}
    output = causal_lm(model).base_model(input_ids=tokens, use_cache=False, **options)
    scale = logit_scale(model.config)
    return output.last_hidden_state if scale == 1 else output.last_hidden_state * scale


def choose_batching(model: Any, wanted: str) -> tuple[str, str]:
    """Decide how a model's passes are laid out, by comparing a small one with the model's own forward pass.

    Args:
        model: a transformers causal language model.
        wanted: "forest", "padded" (every sequence a row of its own), or "auto": forest where the model can.

    Returns:
        "forest" or "padded", and why "auto" had to choose "padded" (else "").

    Raises:
        InputError: the model cannot be run as wanted.
    """
    reason = "" if wanted == "padded" else forest_objection(model)
    if wanted != "padded" and not reason:
        return "forest", ""
    if wanted == "forest":
        raise InputError(f"{reason}; set batching=padded or choose another model")
    objection = _objection(model, forest=False)
    if objection:
        raise InputError(f"{objection}; choose another model")
    return "padded", reason


def check_forest(model: Any) -> None:
    """Refuse a model that computes something else on a prefix forest than on its own (`forest_objection`).

    Raises:
        InputError: a forest would train another function than the model's.
    """
    choose_batching(model, "forest")


def forest_objection(model: Any) -> str:
    """Return why a model cannot be run on prefix forests, or "": layers without masks, or another result.

    State-space and linear-attention layers carry a state along the row, and position biases such as ALiBi count along
    it. The kinds of layers are asked too, because a layer fresh from its initialisation may hardly show in the result.
    """
    kinds = set(getattr(model.config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if kinds:
        name = type(causal_lm(model)).__name__
        return f"{name} has layers of kind {', '.join(sorted(kinds))}, which take no ancestor mask"
    return _objection(model, forest=True)


def _objection(model: Any, forest: bool) -> str:
    """Compare a small batch with the model's own forward pass, logits and one gradient; return what differs, or ""."""
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
    batch = "a prefix forest" if forest else "rows padded on the right"
    model.eval()
    embedding.requires_grad_()  # frozen where only adapters are trained
    try:
        shared, alone = _both_ways(model, sequences, forest)
    except InputError:
        raise
    except (ValueError, TypeError, RuntimeError, AttributeError, LookupError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"{name} cannot run on {batch} ({reason})"
    finally:
        model.train(training)
        embedding.requires_grad_(trained)
    for part, a, b in zip(("logits", "gradient"), shared, alone, strict=True):
        difference = ((a - b).abs().max() / b.abs().max().clamp(min=1e-12)).item()
        if not difference < (1e-3 if a.dtype == torch.float32 else 0.1):
            cause = "its layers do not honour attention masks and position ids"
            if not forest:
                cause = "its head is not the affine one of its configuration, or it is not causal"
            return (
                f"{name} gives other {part} on {batch} than on its own (relative difference {difference:.1g}): {cause}"
            )
    return ""


def _both_ways(model: Any, sequences: list[Any], forest: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Return [logits, gradient of the embedding] computed as one batch and as single sequences."""
    device = model.device
    hidden = _as_forest(model, sequences) if forest else _as_padded_rows(model, sequences)
    head, embedding = head_of(model), model.get_input_embeddings().weight
    shared = nn.functional.linear(hidden, head.weight, head.bias)
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


def _as_forest(model: Any, sequences: list[Any]) -> Tensor:
    """Return the hidden states of all sequences, one after another, out of one forest."""
    forest = build_forest(sequences)
    rows = [torch.from_numpy(array)[None].to(model.device) for array in (forest.tokens, forest.depth, forest.end)]
    return forest_hidden(model, *rows)[0, torch.from_numpy(np.concatenate(forest.paths)).to(model.device)]


def _as_padded_rows(model: Any, sequences: list[Any]) -> Tensor:
    """Return the same out of padded rows."""
    tokens = nn.utils.rnn.pad_sequence([torch.from_numpy(sequence) for sequence in sequences], batch_first=True)
    hidden = forest_hidden(model, tokens.to(model.device))
    return torch.cat([row[: len(sequence)] for row, sequence in zip(hidden, sequences, strict=True)])
