"""A tokenizer for models trained from scratch, and what single tokens of any tokenizer spell."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from cftrec.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, tokens: Sequence[str] = ()) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer; every text can be encoded, and the same input gives the same tokenizer.

    A newline is always a token of its own, so that the end of a line never depends on what stands before it. Nothing
    else bounds a token: what titles often share becomes one, across words, which makes titles a third shorter.

    Args:
        texts: what to learn from: the catalogue's texts and the template's (`Template.fill`).
        vocab_size: the most tokens, `tokens` not counted; at least 257, the bytes and `<|endoftext|>`.
        tokens: whole tokens to add, such as the pieces of semantic ids.

    Returns:
        A tokenizer with `<|endoftext|>` for end-of-sequence and padding, and no BOS.

    Raises:
        InputError: `vocab_size` is too small.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size <= len(alphabet):
        raise InputError(
            f"option nano_vocab_size={vocab_size}: must be at least {len(alphabet) + 1}, all bytes and {END}"
        )
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    core.add_tokens(list(tokens))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )


def token_texts(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int]) -> list[str]:
    """Return what each token adds to the text of all; a character made of several tokens stands at its last one."""
    ids = [int(token) for token in tokens]
    ends = [len(tokenizer.decode(ids[: count + 1]).rstrip("\ufffd")) for count in range(len(ids))]
    whole = tokenizer.decode(ids)
    return [whole[begin:end] for begin, end in pairwise([0, *ends])]
