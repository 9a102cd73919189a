"""Text: items as token sequences in a trie, prompts with and without a history."""

from cftrec.text.alpaca import write_alpaca
from cftrec.text.catalogue import Catalogue
from cftrec.text.items import given_tokens, item_sequences, item_texts, tokenise_items
from cftrec.text.prompt import Counterfactual, Prompt, build_prompt
from cftrec.text.template import PRESETS, Template, load_template
from cftrec.text.tokenizer import train_tokenizer
from cftrec.text.trie import Trie, build_trie

__all__ = [
    "PRESETS",
    "Catalogue",
    "Counterfactual",
    "Prompt",
    "Template",
    "Trie",
    "build_prompt",
    "build_trie",
    "given_tokens",
    "item_sequences",
    "item_texts",
    "load_template",
    "tokenise_items",
    "train_tokenizer",
    "write_alpaca",
]
