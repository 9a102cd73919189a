"""What passes cost on this machine: time of attention by blocks, and memory of activations."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from cftrec.artefacts import write_json
from cftrec.forest.attention import attend, block_dtype
from cftrec.forest.backbone import causal_lm, forest_hidden

LEAST_CALL, MOST_CALL = 2**8, 2**20  # what a disturbed measurement may come to
_SMALL, _LARGE = (32, 64), (256, 512)  # queries and keys of the two blocks that are timed


def attention_call(model: Any, dtype: torch.dtype) -> int:
    """Return what a call of attention costs beyond its pairs, in pairs of query and key, as a power of two.

    Forward and backward of two blocks are timed, small and large, at the model's number and size of heads: time =
    call + Q K pair. It takes less than a second, and is kept in a file under the user's cache folder, by device, shape,
    dtype and version of torch, so that later runs on the machine cut their forests alike.

    Args:
        model: a transformers causal language model.
        dtype: of the states that attention is given.
    """
    config = causal_lm(model).config.get_text_config()
    heads = config.num_attention_heads
    own = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    dtype = block_dtype(model.device, dtype)
    name = f"{_device_name(model.device)}, {heads} heads, {own} key heads of {size}, {dtype}, torch {torch.__version__}"
    return _remembered(name, lambda: _fit(model.device, heads, own, size, dtype))


def _fit(device: torch.device, heads: int, key_heads: int, size: int, dtype: torch.dtype) -> int:
    small, large = (
        _seconds(device, (heads, key_heads, size), queries, keys, dtype) for queries, keys in (_SMALL, _LARGE)
    )
    fewer, more = (queries * keys for queries, keys in (_SMALL, _LARGE))
    pair = max(large - small, 1e-9) / (more - fewer)
    call = min(max((small - fewer * pair) / pair, LEAST_CALL), MOST_CALL)
    return 2 ** round(np.log2(call))


def _seconds(device: torch.device, shape: tuple[int, int, int], queries: int, keys: int, dtype: torch.dtype) -> float:
    """Return the time of one block, forward and backward: the least of several, which other processes disturb least."""
    heads, key_heads, size = shape

    def random(own: int, length: int) -> Tensor:
        return torch.randn(1, own, length, size, device=device, dtype=dtype).requires_grad_()

    query, key, value = random(heads, queries), random(key_heads, keys), random(key_heads, keys)
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        attend(query, key, value, allowed).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return min(times)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), device.type)
    return f"{model}, {torch.get_num_threads()} threads"


def _remembered(name: str, measure: Callable[[], int]) -> int:
    """Return what the cache file knows, or measure and write it down; a file that cannot be used is measured over."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a machine without a home measures each time
        return measure()
    file = Path(home) / "cftrec" / "attention_call.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(known.get(name), int) and known[name] >= 0:
            return known[name]
    except (OSError, ValueError, AttributeError):
        known = {}
    value = measure()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, known | {name: value})
    except OSError:
        pass  # as one whose home is not to be written does
    return value


def fitting_tokens(model: Any, most: int, budget: float | None, autocast: torch.dtype | None = None) -> int:
    """Return how many tokens' activations fit a budget of memory, at most `most`, as a power of two from 64 on.

    Args:
        model: a transformers causal language model.
        most: where a larger pass would gain no speed.
        budget: GiB; None: half of what is free on the model's device.
        autocast: the dtype of autocast, where training uses it.
    """
    free = _free_bytes(model.device) / 2 if budget is None else budget * 2**30
    each = activation_bytes(model, autocast)  # 0 where the head alone is trained
    tokens = min(most, int(free / each)) if each > 0 else most
    return max(64, 2 ** int(np.log2(max(tokens, 1))))


def activation_bytes(model: Any, autocast: torch.dtype | None = None) -> float:
    """Return how many bytes a token of a pass holds for backward: what more tokens in a row add."""
    most = min(128, getattr(causal_lm(model).config, "max_position_embeddings", None) or 128)
    fewer = most // 2
    return (_saved_bytes(model, most, autocast) - _saved_bytes(model, fewer, autocast)) / (most - fewer)


def _saved_bytes(model: Any, tokens: int, autocast: torch.dtype | None) -> int:
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    row = torch.ones(1, tokens, dtype=torch.int64, device=model.device)
    with (
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast(model.device.type, autocast or torch.bfloat16, enabled=autocast is not None),
    ):
        hidden = forest_hidden(model, row)  # kept, so that no storage is freed and counted again
    del hidden
    return sum(held.values())


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
