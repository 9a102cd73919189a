"""How training meets the machine: layout of steps, compiled layers, loader workers, what bf16 costs."""

import os
import sys
import threading
import time
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from cftrec.forest.cost import attention_call, fitting_tokens
from cftrec.forest.passes import Layout
from cftrec.training.config import CFTConfig

_CPU_TOKENS = 2048  # larger passes gained no speed
_GPU_TOKENS = 16384  # not measured: there was no GPU at hand
_MUCH_SLOWER = 2  # times; well above 1, so that noise does not decide


def warn_of_slow_bf16(option: str, device: torch.device) -> None:
    """Say on stderr where an option asks for bf16 of a CPU that has no instruction for its products.

    torch then multiplies without its fast library, which takes many times as long as fp32.
    """
    if device.type == "cpu" and (times := bf16_over_fp32()) > _MUCH_SLOWER:
        print(
            f"cftrec: {option} slows this processor down: bf16 takes {times:.0f} times as long as fp32", file=sys.stderr
        )


@torch.inference_mode(False)
@torch.enable_grad()
def bf16_over_fp32() -> float:
    """Return how many times as long as in fp32 this CPU takes in bf16 for the products of a small layer.

    Forward and backward of 64 rows and 256 x 256 weights on one thread, which waits for no other: the least of several.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    least = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(5):
        for dtype, before in least.items():
            rows, weight = (torch.ones(size, 256, dtype=dtype, requires_grad=True) for size in (64, 256))
            begin = time.perf_counter()
            (rows @ weight.T).sum().backward()
            least[dtype] = min(before, time.perf_counter() - begin)
    torch.set_num_threads(threads)
    return least[torch.bfloat16] / least[torch.float32]


def send_by_value(worker: int) -> None:
    """Let a loader's worker send tensors as bytes, not as files of shared memory.

    A batch is many small arrays. Received as files they would cost the training process more time than building them.
    A worker ends with the training: one whose batch waits in a pipe that nobody reads would live for ever.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    ForkingPickler.register(torch.Tensor, lambda tensor: (torch.from_numpy, (tensor.numpy(),)))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


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
    autocast = torch.bfloat16 if args.bf16 else None
    tokens, call = args.pass_tokens, args.attention_call
    if tokens is None:
        tokens = fitting_tokens(model, _GPU_TOKENS if on_gpu else _CPU_TOKENS, args.memory_budget, autocast)
    if call is None and forest:
        call = attention_call(model, autocast or model.dtype)
    return Layout(forest, tokens, call or 0)
