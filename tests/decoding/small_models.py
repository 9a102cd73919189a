"""Random models of many kinds in fp64, catalogues of token lists, and scores by brute force."""

from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers

from cftrec.forest.attention import BLOCKS
from cftrec.text import Catalogue
from small_shapes import HYBRIDS

VOCABULARY = 10
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
}


WINDOW = {"sliding_window": 4}  # shorter than the sequences
GEMMA = WINDOW | {"query_pre_attn_scalar": 8}
STATE = {"vocab_size": VOCABULARY, "hidden_size": 16, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
GRANITE = {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3, "logits_scaling": 3.0}
FORESTS = {
    "llama": SHAPE,
    "qwen2": SHAPE,
    "qwen3": SHAPE,
    "mistral": SHAPE | WINDOW,
    "gemma2": SHAPE | GEMMA | {"final_logit_softcapping": 3.0},  # soft-capped logits, eager attention, sliding layers
    "gemma3_text": SHAPE | GEMMA | {"sliding_window_pattern": 2},
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": SHAPE | {"ffn_dim": 24, "word_embed_proj_dim": 8, "pad_token_id": 0},
    "granite": SHAPE | GRANITE,
    "cohere": SHAPE | {"logit_scale": 0.3, "pad_token_id": 0},
}
PADDED = {
    "mamba": STATE | {"num_hidden_layers": 2, "state_size": 4},
    "bloom": STATE | {"n_layer": 2, "n_head": 2},
    "qwen3_next": HYBRIDS["qwen3_next"] | STATE,
    "falcon_h1": HYBRIDS["falcon_h1"] | STATE,  # scales its logits
    "jamba": HYBRIDS["jamba"] | STATE,
}


BATCHING = dict.fromkeys(FORESTS, "forest") | dict.fromkeys(PADDED, "padded")
TOLERANCE = 1e-5
# State-space and linear-attention layers compute in fp32 whatever the weights are.
LOOSE = dict.fromkeys(PADDED, 1e-4) | {"bloom": TOLERANCE}


def model_of(kind: str, options: dict[str, Any]):
    """Make a model in fp64, so that what differs is the search's fault and not rounding's."""
    torch.manual_seed(len(kind))
    ends = {"bos_token_id": None, "eos_token_id": None}
    config = type(transformers.AutoConfig.for_model(kind))(**options | ends)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Random weights of usual size make titles alike, and Mamba's times 5 amplify rounding.
            parameter.mul_(2 if kind == "mamba" else 5)
    model.own_attention = model.config._attn_implementation
    if kind in FORESTS:
        model.set_attn_implementation(BLOCKS)  # as a Recommender does
    # Gemma 2's eager attention takes its softmax in fp32, to which an fp64 mask is infinite.
    return model if kind in LOOSE.keys() - {"bloom"} or kind == "gemma2" else model.double()


@contextmanager
def its_own_attention(model):
    """Let a model run as transformers does."""
    ours = model.config._attn_implementation
    model.set_attn_implementation(getattr(model, "own_attention", ours))
    try:
        yield
    finally:
        model.set_attn_implementation(ours)


MODELS = {kind: model_of(kind, options) for kind, options in (FORESTS | PADDED).items()}


def catalogue_of(sequences: list[list[int]]) -> Catalogue:
    names = [str(item) for item in range(len(sequences))]
    return Catalogue.build(names, names, sequences)


def brute_force(model, catalogue: Catalogue, prompt: np.ndarray, softmax: str) -> np.ndarray:
    """Score every item by itself: the whole prompt and title through the model, no padding, no trie."""
    with torch.no_grad(), its_own_attention(model):
        return np.array([_score(model, catalogue, prompt, item, softmax) for item in range(len(catalogue))])


def _score(model, catalogue: Catalogue, prompt: np.ndarray, item: int, softmax: str) -> float:
    sequence = catalogue.sequence(item).tolist()
    logits = model(input_ids=torch.tensor([[*prompt.tolist(), *sequence]])).logits[0].double()
    total = 0.0
    for place, token in enumerate(sequence):
        row = logits[len(prompt) - 1 + place]
        if softmax == "catalogue":
            others = (catalogue.sequence(other).tolist() for other in range(len(catalogue)))
            allowed = {s[place] for s in others if len(s) > place and s[:place] == sequence[:place]}
            total += (row[token] - torch.logsumexp(row[sorted(allowed)], 0)).item()
        else:
            total += torch.log_softmax(row, 0)[token].item()
    return total
