"""Prompts as token ids: the factual x_h that shows a history, and the counterfactual x_0 that shows none.

Every part (the text around the history, each item, the separator, the closing) is tokenised once and on its own, so
prompts agree on their beginnings and training sees what decoding sees. What an item's text spells is always text, even
where it reads like a special token of the tokenizer.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cftrec.errors import InputError
from cftrec.text.template import Template, load_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Counterfactual = Literal["dropped", "empty", "placeholder"]
PLACEHOLDER = "unknown"
_Ids = tuple[int, ...]
_SENTINEL = "<<history>>"


@dataclass(frozen=True)
class Prompt:
    """A template in one tokenizer's ids.

    Attributes:
        prefix: what stands before the history (begins with BOS where the tokenizer adds one).
        suffix: what stands between the history and the target.
        separator: stands between the items of a history; without a suffix, after each of them.
        closing: the last tokens of every item's sequence.
        without_history: the whole counterfactual prompt; never empty.
        max_tokens: the most tokens of a prompt and its target together, or None for no bound.
        item: how an item's text is written, around `{item}`.
    """

    prefix: _Ids
    suffix: _Ids
    separator: _Ids
    closing: _Ids
    without_history: _Ids
    max_tokens: int | None = None
    item: str = "{item}"

    @property
    def suffix_free(self) -> bool:
        """Whether a target is the list's next entry: then `factual(items)` and the next sequence make a longer list."""
        return not self.suffix and self.separator == self.closing

    def factual(self, history_tokens: Sequence[ArrayLike], target_tokens_budget: int = 0) -> NDArray[np.int32]:
        """Return x_h, int32 [tokens]: all its `parts`."""
        return np.concatenate(self.parts(history_tokens, target_tokens_budget))

    def parts(self, history_tokens: Sequence[ArrayLike], target_tokens_budget: int = 0) -> list[NDArray[np.int32]]:
        """Return the separately tokenised parts of x_h for a history of the catalogue's sequences, oldest first.

        The oldest items are left out, whole, until the prompt and `target_tokens_budget` more tokens fit `max_tokens`.

        Returns:
            int32 arrays: the prefix, each item and separator, the suffix; some may be empty.

        Raises:
            InputError: not even the prompt without any item fits.
        """
        items = [np.asarray(sequence, dtype=np.int32)[: -len(self.closing)] for sequence in history_tokens]
        if self.max_tokens is not None:
            items = items[self._first_fitting(items, target_tokens_budget) :]
        separator = np.array(self.separator, dtype=np.int32)
        listed = [part for item in items for part in (item, separator)]
        if self.suffix and listed:
            listed.pop()
        return [np.array(self.prefix, np.int32), *listed, np.array(self.suffix, np.int32)]

    def counterfactual(self) -> NDArray[np.int32]:
        """Return x_0, int32 [tokens]."""
        return np.array(self.without_history, dtype=np.int32)

    def room(self, budget: int, target: str = "the longest target") -> int:
        """Return the most tokens of a history that fits `max_tokens`, a separator after each item counted.

        Args:
            budget: tokens kept free for the target.
            target: how an error calls what is as long as that.

        Raises:
            InputError: not even the prompt without any item fits.
        """
        assert self.max_tokens is not None
        frame = max(len(self.prefix) + len(self.suffix), len(self.without_history))
        if frame + budget > self.max_tokens:
            raise InputError(
                f"{self.max_tokens} tokens (max_tokens, or the model's positions) are too few: the prompt without any "
                f"history has {frame} and {target} {budget}; at least {frame + budget} are needed"
            )
        room = self.max_tokens - budget - len(self.prefix) - len(self.suffix)
        return room + len(self.separator) if self.suffix else room  # with a suffix, the newest item has none

    def _first_fitting(self, items: list[NDArray[np.int32]], budget: int) -> int:
        """Return the index of the oldest item that still fits with all newer ones; `len(items)` if none does."""
        sizes = np.array([len(item) + len(self.separator) for item in reversed(items)], dtype=np.int64)
        return len(items) - int(np.searchsorted(np.cumsum(sizes), self.room(budget), side="right"))

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads, made of what JSON knows."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make the prompt that `to_dict` described."""
        parts: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**parts)


def build_prompt(
    name_or_path: str,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    category: str,
    counterfactual: Counterfactual = "dropped",
    max_tokens: int | None = None,
) -> Prompt:
    """Tokenise a template.

    Args:
        name_or_path: a preset (plain, alpaca, d3, chat) or the path of a template file (see `load_template`).
        tokenizer: the model's.
        category: what the items are, such as "movie"; put in the template's `{category}`.
        counterfactual: what x_0 shows for the history: the template's text without it ("dropped"), nothing in its place
            ("empty"), or the word "unknown" in its place ("placeholder").
        max_tokens: bound on a prompt with its target; None for no bound.

    Raises:
        InputError: an unknown preset, a file that makes no template, an unknown `counterfactual`, a `max_tokens` below
            1, a tokenizer without the token or chat template that the prompt needs.
    """
    if counterfactual not in get_args(Counterfactual):
        options = ", ".join(get_args(Counterfactual))
        raise InputError(f"unknown counterfactual {counterfactual!r}; known are {options}")
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens must be at least 1, not {max_tokens}")
    template = load_template(name_or_path)
    build = _chat_frame if name_or_path == "chat" else _text_frame
    prefix, suffix, dropped, closing = build(template, tokenizer, category)
    separator = _encode(tokenizer, template.separator)
    listed = _encode(tokenizer, PLACEHOLDER) + (() if suffix else separator)
    without = {
        "dropped": dropped,
        "empty": prefix + suffix,
        "placeholder": prefix + listed + suffix,
    }[counterfactual]
    prompt = Prompt(prefix, suffix, separator, closing, without, max_tokens, template.item)
    return _with_root(prompt, tokenizer)


def _text_frame(
    template: Template, tokenizer: "PreTrainedTokenizerBase", category: str
) -> tuple[_Ids, _Ids, _Ids, _Ids]:
    """Return prefix, suffix, dropped prompt and closing of a template that is the whole text."""
    before, after, without = (_encode(tokenizer, part) for part in template.fill(category))
    bos = _added_bos(tokenizer)
    closing = _encode(tokenizer, template.closing)
    if template.eos:
        closing += (_eos(tokenizer),)
    return bos + before, after, bos + without, closing


def _chat_frame(
    template: Template, tokenizer: "PreTrainedTokenizerBase", category: str
) -> tuple[_Ids, _Ids, _Ids, _Ids]:
    """Return prefix, suffix, dropped prompt and closing of a template that is a user's message in a chat.

    The chat template writes BOS itself where the model wants one; its special tokens are special.
    """
    before, after, without = template.fill(category)
    user = _render(tokenizer, before + _SENTINEL + after)
    if user.count(_SENTINEL) != 1:
        raise InputError("the tokenizer's chat template does not keep a user's message as it is; choose another prompt")
    prefix, suffix = (_encode(tokenizer, part, special=True) for part in user.split(_SENTINEL))
    dropped = _encode(tokenizer, _render(tokenizer, without), special=True)
    return prefix, suffix, dropped, (_end_of_turn(tokenizer, before),)


def _render(tokenizer: "PreTrainedTokenizerBase", message: str, answer: str | None = None) -> str:
    """Write a user's message, and an assistant's answer if there is one, with the tokenizer's chat template."""
    if not tokenizer.chat_template:
        raise InputError("prompt 'chat' needs a tokenizer with a chat template, and this model's has none")
    messages = [{"role": "user", "content": message}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
    except Exception as error:  # whatever the template's own code raises
        raise InputError(f"the tokenizer's chat template fails on a user's message ({error})") from error


def _end_of_turn(tokenizer: "PreTrainedTokenizerBase", message: str) -> int:
    """Return the special token that the chat template puts right after an answer, else EOS."""
    after = _render(tokenizer, message, _SENTINEL).rpartition(_SENTINEL)[2]
    first = _encode(tokenizer, after.strip(), special=True)[:1]
    return first[0] if first and first[0] in tokenizer.all_special_ids else _eos(tokenizer)


def _with_root(prompt: Prompt, tokenizer: "PreTrainedTokenizerBase") -> Prompt:
    """Give both prompts a common first token where one of them could be empty: a model predicts after a token only."""
    if prompt.without_history and (prompt.prefix or prompt.suffix):
        return prompt
    root = (tokenizer.bos_token_id if tokenizer.bos_token_id is not None else _eos(tokenizer),)
    return replace(prompt, prefix=root + prompt.prefix, without_history=root + prompt.without_history)


def _eos(tokenizer: "PreTrainedTokenizerBase") -> int:
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-sequence token, which this prompt needs")
    return int(tokenizer.eos_token_id)


def _added_bos(tokenizer: "PreTrainedTokenizerBase") -> _Ids:
    """Return the BOS token if the tokenizer puts one before a text by itself, else nothing."""
    first = tokenizer("", add_special_tokens=True).input_ids[:1]
    return tuple(first) if first and first[0] == tokenizer.bos_token_id else ()


def _encode(tokenizer: "PreTrainedTokenizerBase", text: str, *, special: bool = False) -> _Ids:
    """Tokenise one segment; with `special`, spelled-out special tokens count as such."""
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=not special).input_ids) if text else ()
