"""Low-rank adapters (LoRA, arXiv 2106.09685) by PEFT: put on a model, saved and read back."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from cftrec.errors import InputError
from cftrec.forest.backbone import head_of
from cftrec.training.config import CFTConfig

ALL_LINEAR = "all-linear"


def add_lora(model: Any, config: CFTConfig) -> PeftModel:
    """Freeze a causal language model and put random adapters beside its linear layers; B is 0, so nothing changes yet.

    Args:
        model: a transformers causal language model; its layers are replaced in place.
        config: `lora_*` say how, `seed` decides the adapters' weights.

    Raises:
        InputError: `lora_target` names no linear layer, or a head that can have no adapter.
    """
    options = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=_targets(model, config.lora_target),
    )
    torch.manual_seed(config.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT sets by itself what it warns of: the transposed layers of GPT-2
        adapted = get_peft_model(model, options)
    head_of(adapted)  # refuses a head that is no longer one weight
    head = model.get_output_embeddings()
    if isinstance(head, BaseTunerLayer) and head.weight is model.get_input_embeddings().weight:
        raise InputError(
            f"option lora_target={config.lora_target!r}: this model's head is tied to its embedding, which an adapter "
            "would tear apart; leave the head out"
        )
    return adapted


def _targets(model: Any, target: str) -> str | list[str]:
    """Return the option as PEFT reads it, each name checked against the model's linear layers."""
    if target == ALL_LINEAR:
        return target
    linear = (nn.Linear, Conv1D)
    known = sorted({path.rpartition(".")[2] for path, layer in model.named_modules() if isinstance(layer, linear)})
    names = [name.strip() for name in target.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"option lora_target={target!r}: the model has no linear layer {', '.join(map(repr, unknown))}; "
            f"choose {ALL_LINEAR}, or some of {', '.join(known)}"
        )
    return names


def merge(model: PeftModel) -> Any:
    """Return the language model alone, adapters merged into its weights; they are in fp32, also where some had 4 bits.

    PEFT would round the sum to 4 bits again, and the result would not be the model that was trained.
    """
    plain = model.get_base_model()
    if not getattr(plain, "is_loaded_in_4bit", False):
        return model.merge_and_unload()
    layers = {name: layer for name, layer in plain.named_modules() if isinstance(layer, LoraLayer)}
    changes = {name: sum(map(layer.get_delta_weight, layer.active_adapters)) for name, layer in layers.items()}
    plain = model.unload().dequantize(dtype=torch.float32)
    with torch.no_grad():
        for name, change in changes.items():
            plain.get_submodule(name).weight += change
    return plain


def save_weights(model: Any, folder: Path) -> None:
    """Save what was trained: the whole model as a folder of transformers, or the adapters alone as one of PEFT."""
    if not isinstance(model, PeftModel):
        model.save_pretrained(folder)
        return
    model.save_pretrained(str(folder), save_embedding_layers=False)  # they are frozen
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card has blanks only


def load_weights(model: Any, folder: Path) -> None:
    """Read back into `model` what `save_weights` saved of it."""
    if isinstance(model, PeftModel):
        model.load_adapter(str(folder), model.active_adapter, is_trainable=True, torch_device=str(model.device))
        return
    saved = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
