"""How training meets the machine: layout of steps, compiled layers, loader workers."""

from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from cftrec.forest.cost import attention_call, fitting_tokens
from cftrec.forest.passes import Layout
from cftrec.training.config import CFTConfig

_CPU_TOKENS = 2048  # larger passes gained no speed
_GPU_TOKENS = 16384  # not measured: there was no GPU at hand


def send_by_value(worker: int) -> None:
    """Let a loader's worker send tensors as bytes, not as files of shared memory.

    A batch is many small arrays. Received as files they would cost the training process more time than building them.
    """
    ForkingPickler.register(torch.Tensor, lambda tensor: (torch.from_numpy, (tensor.numpy(),)))


def compile_layers(model: Any, args: CFTConfig) -> None:
    """Compile the model's layers in place, for any length; they are alike, so that what one needs serves all.

    The step around them, with its passes and its own backward, has nothing to gain from it.
    """
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):  # what transformers makes every layer of
            layer.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode, dynamic=True)


def layout_of(model: Any, args: CFTConfig, forest: bool) -> Layout:
    """Return how steps are laid out: as the options say, and where they are silent as measured on the machine."""
    on_gpu = model.device.type == "cuda"
    autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    tokens, call = args.pass_tokens, args.attention_call
    if tokens is None:
        tokens = fitting_tokens(model, _GPU_TOKENS if on_gpu else _CPU_TOKENS, args.memory_budget, autocast)
    if call is None and forest:
        call = attention_call(model, autocast or model.dtype)
    return Layout(forest, tokens, call or 0)
