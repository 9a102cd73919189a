"""What tests of several rooms share: one thread, a dataset made in memory, and tiny random models."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import settings

from cftrec.data import Dataset

torch.set_num_threads(1)
settings.register_profile("busy", deadline=None)  # the machine's load is no fault of the code
settings.load_profile("busy")

TITLES = [
    "Star Wars (1977)",
    "Star Wars",  # begins another title
    "Toy Story (1995)",
    "Toy Story (1995)",  # two items with one title
    "Amélie 🎬",
    "X",
    "Return of the Jedi (1983)",
    "Return to Oz (1985)",
    "Fargo",
    "Alien",
    "Aliens",
    "a<|endoftext|>b",
]


def make_dataset(seed: int = 0, users: int = 9, longest: int = 14) -> Dataset:
    """Draw a log over `TITLES`; each user's last event is a test target, the one before it a validation target."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[1, 2, longest], rng.integers(3, longest, users - 3)])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    split = np.zeros(offsets[-1], dtype=np.uint8)
    split[offsets[1:] - 1] = 2
    split[offsets[1:][lengths > 1] - 2] = 1
    return Dataset(
        items=pl.DataFrame({"item_id": [f"i{n}" for n in range(len(TITLES))], "title": TITLES}),
        users=pl.Series("user_id", [f"u{n}" for n in range(users)]),
        offsets=offsets,
        events=rng.integers(0, len(TITLES), offsets[-1]).astype(np.int32),
        split=split,
        timestamps=None,
        manifest={},
    )


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """A small log: 9 users with 1 to 14 events over 12 items, repeats included."""
    return make_dataset()


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Make a tiny random causal language model of a transformers kind, in fp32, without dropout."""
    return build_tiny_model


def build_tiny_model(kind: str, vocabulary: int = 97, seed: int = 0, **options: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if kind == "gpt2":
        shape |= {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
        shape |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    elif kind not in ("mamba", "bloom", "gpt_neo", "falcon_h1", "qwen3_next", "jamba"):
        shape |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        shape |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "head_dim": 8}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(type(AutoConfig.for_model(kind))(**shape | options))
    with torch.no_grad():  # initial weights are so small that layers hardly matter, and biases are 0
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
