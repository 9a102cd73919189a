"""Make the folder of a model with random weights in a known shape, for `--model` of the other benchmarks.

What a step costs does not depend on the weights. The tokenizer is that of another model, so that titles have as many
tokens as with a pretrained one.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, Qwen2Config

from cftrec.training.models import smollm2

SHAPES = {
    "qwen2-0.5b": Qwen2Config(  # config.json of Qwen/Qwen2-0.5B
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("shape", choices=SHAPES)
    options.add_argument("out", type=Path, help="folder to write; its name names the model in results")
    options.add_argument("--tokenizer", default="smollm2", help="smollm2 or a local folder")
    args = options.parse_args()
    torch.manual_seed(0)
    tokenizer = tokenizer_of(args.tokenizer)
    shape = SHAPES[args.shape]
    shape.eos_token_id = tokenizer.eos_token_id
    AutoModelForCausalLM.from_config(shape).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    return smollm2()[1] if name == "smollm2" else AutoTokenizer.from_pretrained(name, local_files_only=True)


if __name__ == "__main__":
    main()
