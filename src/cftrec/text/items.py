"""From the item table to token sequences: an item's text from named columns, or tokens that the table gives."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from cftrec.errors import InputError
from cftrec.text.prompt import Prompt
from cftrec.text.template import ITEM

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FIELD = re.compile(r"\{([^{}]+)\}")


def item_texts(items: pl.DataFrame, item_text: str = "{title}") -> list[str]:
    """Return the text of each item: `item_text` with every `{column}` replaced by the item's cell (null: nothing).

    Raises:
        InputError: `item_text` names no column, or one that the table lacks.
    """
    pieces = _FIELD.split(item_text)  # literal, column, literal, column, ..., literal
    columns = pieces[1::2]
    if not columns:
        raise InputError(f"item_text {item_text!r} names no column; write for example '{{title}}'")
    for column in columns:
        if column not in items.columns:
            raise InputError(f"item_text {item_text!r}: there is no column {column!r}; there are {_known(items)}")
    parts = [
        pl.col(piece).cast(pl.String).fill_null("") if place % 2 else pl.lit(piece)
        for place, piece in enumerate(pieces)
    ]
    return items.select(pl.concat_str(parts).str.strip_chars().alias("text"))["text"].to_list()


def tokenise_items(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", prompt: Prompt) -> list[list[int]]:
    """Return each item's token sequence, written as the prompt writes items and ended by its closing.

    Raises:
        InputError: an item has no text, or a text that the tokenizer makes nothing of.
    """
    written = [prompt.item.replace(ITEM, text) for text in texts]
    if not written:
        return []
    encoded = tokenizer(written, add_special_tokens=False, split_special_tokens=True).input_ids
    for row, (text, ids) in enumerate(zip(texts, encoded, strict=True)):
        if not text or not ids:
            raise InputError(f"item {row} (counted from 0) has no text; choose another item_text or drop the item")
    return [[*ids, *prompt.closing] for ids in encoded]


def given_tokens(
    items: pl.DataFrame, item_tokens: str, tokenizer: "PreTrainedTokenizerBase", prompt: Prompt
) -> list[list[int]]:
    """Return each item's token sequence from a column that spells it out, such as semantic ids "<a_1> <b_2>".

    Args:
        items: the item table.
        item_tokens: name of the column; a cell holds pieces separated by blanks, each one token of the tokenizer.
        tokenizer: the model's; the pieces must be in its vocabulary.
        prompt: gives what is written around an item, and the closing.

    Raises:
        InputError: no such column, an empty cell, or a piece that is no token.
    """
    if item_tokens not in items.columns:
        raise InputError(f"item_tokens: there is no column {item_tokens!r}; there are {_known(items)}")
    vocabulary = tokenizer.get_vocab()
    before, after = (
        tokenizer(part, add_special_tokens=False, split_special_tokens=True).input_ids if part else []
        for part in prompt.item.split(ITEM)
    )
    sequences = []
    for row, cell in enumerate(items[item_tokens].cast(pl.String).fill_null("").to_list()):
        pieces = cell.split()
        if not pieces:
            raise InputError(f"item {row} (counted from 0): column {item_tokens!r} is empty; give its tokens")
        unknown = next((piece for piece in pieces if piece not in vocabulary), None)
        if unknown is not None:
            raise InputError(
                f"item {row} (counted from 0): {unknown!r} in column {item_tokens!r} is no token of the tokenizer; "
                "add it to the tokenizer first"
            )
        sequences.append([*before, *(vocabulary[piece] for piece in pieces), *after, *prompt.closing])
    return sequences


def item_sequences(
    items: pl.DataFrame, item_text: str, item_tokens: str | None, tokenizer: "PreTrainedTokenizerBase", prompt: Prompt
) -> list[list[int]]:
    """Return each item's token sequence: given by column `item_tokens` where that is named, else made of `item_text`.

    Raises:
        InputError: see `given_tokens`, `item_texts` and `tokenise_items`.
    """
    if item_tokens is not None:
        return given_tokens(items, item_tokens, tokenizer, prompt)
    return tokenise_items(item_texts(items, item_text), tokenizer, prompt)


def _known(items: pl.DataFrame) -> str:
    return ", ".join(items.columns)
