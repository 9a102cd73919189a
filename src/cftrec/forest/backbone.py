"""What a causal language model offers: hidden states of forests or of padded rows, and an affine head."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from cftrec.errors import InputError
from cftrec.forest.attention import BLOCKS, FLEX, forest_masks
from cftrec.forest.build import build_forest


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


def forest_hidden(
    model: Any, tokens: Tensor, depth: Tensor | None = None, end: Tensor | None = None, cuts: Tensor | None = None
) -> Tensor:
    """Return the last hidden states [R, L, H], scaled so that the head's weight alone gives logits.

    A forest is one row, with `depth`, `end` and `cuts`. Without them each row is one sequence, filled up on the right:
    what comes later changes nothing in a causal model, so the model's own computation serves, whatever its layers are,
    and takes no mask.

    Args:
        model: a transformers causal language model; for a forest one that `choose_batching` has set to it.
        tokens: int64 [R, L].
        depth: int64 [L], the position ids.
        end: int64 [L], subtree ends (`Forest`).
        cuts: int64 [B + 1], where blocks of attention begin (`cut_blocks`).
    """
    options: dict[str, Any] = {}
    if depth is not None and end is not None and cuts is not None:
        options = {"position_ids": depth[None]} | forest_masks(model.config, depth, end, cuts)
    output = causal_lm(model).base_model(input_ids=tokens, use_cache=False, **options)
    scale = logit_scale(model.config)
    return output.last_hidden_state if scale == 1 else output.last_hidden_state * scale


def take_any_shape() -> None:
    """Keep attention on CUDA from cuDNN, which plans each new shape; that took longer than all else in a step.

    Steps and searches have new shapes all the time.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def choose_batching(model: Any, wanted: str, attention: str = "auto") -> tuple[str, str]:
    """Decide how a model's passes are laid out, by comparing a small one with the model's own forward pass.

    A model that runs on forests is left set to the attention that does it (`forest.attention`).

    Args:
        model: a transformers causal language model.
        wanted: "forest", "padded" (every sequence a row of its own), or "auto": forest where the model can.
        attention: of forests: "blocks", "flex" (FlexAttention, on CUDA), or "auto": flex where model and device can.

    Returns:
        "forest" or "padded", and why "auto" had to choose "padded" (else "").

    Raises:
        InputError: the model cannot be run as wanted.
    """
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        take_any_shape()
    if attention == "flex" and not on_gpu:
        raise InputError("option attention=flex: FlexAttention needs a CUDA device; leave it out, or set it to blocks")
    reason = ""
    for name in {"auto": ["flex", "blocks"] if on_gpu else ["blocks"]}.get(attention, [attention]):
        reason = "" if wanted == "padded" else forest_objection(model, FLEX if name == "flex" else BLOCKS)
        if wanted != "padded" and not reason:
            return "forest", ""
    if wanted == "forest":
        raise InputError(f"{reason}; set batching=padded or choose another model")
    objection = _objection(model, forest=False)
    if objection:
        raise InputError(f"{objection}; choose another model")
    return "padded", reason


def forest_objection(model: Any, attention: str = BLOCKS) -> str:
    """Return why a model cannot be run on prefix forests, or "" and leave it set to the attention that does it.

    State-space and linear-attention layers carry a state along the row, and position biases such as ALiBi count along
    it. The kinds of layers are asked too, because a layer fresh from its initialisation may hardly show in the result.

    Args:
        model: a transformers causal language model.
        attention: BLOCKS or FLEX of `forest.attention`.
    """
    kinds = set(getattr(model.config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if kinds:
        name = type(causal_lm(model)).__name__
        return f"{name} has layers of kind {', '.join(sorted(kinds))}, which take no ancestor mask"
    own = model.config._attn_implementation
    objection = _objection(model, forest=True, attention=attention)
    if objection:
        causal_lm(model).set_attn_implementation(own)
    return objection


def _objection(model: Any, forest: bool, attention: str = BLOCKS) -> str:
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
        alone = _computed(model, sequences, _alone)
        if forest:
            causal_lm(model).set_attn_implementation(attention)
            if model.config._attn_implementation != attention:
                return f"{name} computes attention by itself, not by a function that transformers lets one choose"
        shared = _computed(model, sequences, _as_forest if forest else _as_padded_rows)
    except InputError:
        raise
    except Exception as error:  # whatever a model's own code, or a compiler, raises on what it does not know
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


def _computed(model: Any, sequences: list[Any], way: Callable[[Any, list[Any]], Tensor]) -> list[Tensor]:
    """Return [logits, gradient of the embedding] of all sequences, computed in one way."""
    logits = way(model, sequences)
    direction = torch.linspace(-1, 1, logits.numel(), device=model.device).reshape(logits.shape).cos()
    (gradient,) = torch.autograd.grad((logits.float() * direction).sum(), model.get_input_embeddings().weight)
    return [logits.detach(), gradient]


def _alone(model: Any, sequences: list[Any]) -> Tensor:
    """Return the model's own logits of each sequence, one after another."""
    rows = [torch.from_numpy(sequence)[None].to(model.device) for sequence in sequences]
    return torch.cat([model(input_ids=row, use_cache=False).logits[0] for row in rows])


def _as_forest(model: Any, sequences: list[Any]) -> Tensor:
    """Return the same out of one forest, which attention takes in several blocks."""
    forest = build_forest(sequences)
    cuts = np.append(np.arange(0, len(forest.tokens), 4), len(forest.tokens))  # so small that each sees others' nodes
    arrays = (forest.depth, forest.end, cuts)
    tokens, *rest = (torch.from_numpy(array).to(model.device) for array in (forest.tokens, *arrays))
    paths = torch.from_numpy(np.concatenate(forest.paths)).to(model.device)
    return _logits(model, forest_hidden(model, tokens[None], *rest)[0, paths])


def _as_padded_rows(model: Any, sequences: list[Any]) -> Tensor:
    """Return the same out of padded rows."""
    tokens = nn.utils.rnn.pad_sequence([torch.from_numpy(sequence) for sequence in sequences], batch_first=True)
    hidden = forest_hidden(model, tokens.to(model.device))
    return _logits(model, torch.cat([row[: len(own)] for row, own in zip(hidden, sequences, strict=True)]))


def _logits(model: Any, hidden: Tensor) -> Tensor:
    head = head_of(model)
    logits = nn.functional.linear(hidden, head.weight, head.bias)
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
