"""The wording of prompts: presets, and templates read from a user's file."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from cftrec.errors import InputError

CATEGORY, HISTORY, ITEM = "{category}", "{history}", "{item}"
_VERB = "{verb}"  # of the published wordings only: how people use what they are recommended
_VERBS = {
    "movie": "watched",
    "film": "watched",
    "book": "read",
    "video game": "played",
    "game": "played",
    "toy": "played",
}


@dataclass(frozen=True)
class Template:
    r"""The wording of a prompt. `{category}`, `{history}` and `{item}` are replaced; all other text stays as it is.

    Attributes:
        text: the prompt that shows the history; holds `{history}` once and `{category}` any number of times.
        without_history: the counterfactual prompt where the history is "dropped"; may hold `{category}`.
        item: one item, in the history and as the target; holds `{item}` once.
        separator: what stands between the items of the history; where `text` ends at the history, after each of them.
        closing: text after the target.
        eos: whether the tokenizer's end-of-sequence token follows `closing`.
    """

    text: str
    without_history: str
    item: str = '"{item}"'
    separator: str = ", "
    closing: str = ""
    eos: bool = True

    def __post_init__(self) -> None:
        """Refuse a template that cannot show a history, an item or an end."""
        for name, value, part in (("text", self.text, HISTORY), ("item", self.item, ITEM)):
            if value.count(part) != 1:
                raise InputError(
                    f"prompt template: {name} must hold {part} once, but holds it {value.count(part)} times"
                )
        if HISTORY in self.without_history:
            raise InputError(f"prompt template: without_history must not hold {HISTORY}")
        if not self.closing and not self.eos:
            raise InputError("prompt template: nothing ends an item; give a closing or set eos")

    def fill(self, category: str) -> tuple[str, str, str]:
        """Return the text before the history, the text after it, and the prompt with the history dropped."""
        before, after = self.text.split(HISTORY)
        # A user's text stays as it is.
        verb = _VERBS.get(category.lower(), "enjoyed") if self in PRESETS.values() else _VERB
        before, after, without = (
            part.replace(_VERB, verb).replace(CATEGORY, category) for part in (before, after, self.without_history)
        )
        return before, after, without

    def prompt_text(self, category: str, items: Sequence[str]) -> str:
        """Return the prompt that shows items, oldest first, as the text that is tokenised part by part."""
        before, after, _ = self.fill(category)
        written = [self.item.replace(ITEM, item) for item in items]
        listed = self.separator.join(written) if after else "".join(item + self.separator for item in written)
        return before + listed + after

    def target_text(self, item: str) -> str:
        """Return the target's text, without the end-of-sequence token that may follow."""
        return self.item.replace(ITEM, item) + self.closing


_TASK = "Below is an instruction that describes a task"
_INPUT = ", paired with an input that provides further context"
_WRITE = ". Write a response that appropriately completes the request."
_RECOMMEND = (
    "### Instruction:\n"
    "Given a list of {category}s the user has {verb} before, "
    "please recommend a new {category} that the user likes to the user."
)
_BOUGHT = (
    "### Instruction:\n"
    "Given a list of {category}s the user recently enjoyed, please write a new {category} that the user may have bought"
)

PRESETS: dict[str, Template] = {
    # The end of an item is the end of its line, so the history of a longer list extends that of a shorter one with its
    # target, and the counterfactual is where every list begins.
    "plain": Template(
        text="{category} history, in order:\n{history}",
        without_history="{category} history, in order:\n",
        item="{item}",
        separator="\n",
        closing="\n",
        eos=False,
    ),
    # The wording of BIGRec (arXiv 2308.08434) and CFT, blanks included. The public code of CFT indents the sections in
    # training but not at inference; here both use the text without indents.
    "alpaca": Template(
        text=f"{_TASK}{_INPUT}{_WRITE}\n\n{_RECOMMEND}\n\n"
        "### Input:\nThe user has {verb} the following {category}s before: {history}\n \n\n### Response:\n",
        without_history=f"{_TASK}{_WRITE}\n\n{_RECOMMEND}\n\n### Response:\n",
    ),
    # The wording of D3, arXiv 2406.14900, its trailing blanks included; its target is the title, a newline, and EOS.
    "d3": Template(
        text=f"{_TASK}{_INPUT}{_WRITE} \n\n{_BOUGHT}\n\n"
        "### User Input: \nThe user has played the following {category}s before: {history}\n\n### Response: \n",
        without_history=f"{_TASK}{_WRITE} \n\n{_BOUGHT}\n\n### Response: \n",
        closing="\n",
    ),
    # The user's message; the tokenizer's chat template stands around it.
    "chat": Template(
        text="These are the {category}s I have enjoyed, oldest first: {history}.\n"
        "Recommend a new one that I will like. Answer with its title alone.",
        without_history="Recommend a {category} that I will like. Answer with its title alone.",
    ),
}


def load_template(name_or_path: str) -> Template:
    """Return a preset by name, or the template in a user's file.

    A file is plain text with `{history}` and, if wanted, `{category}`, or YAML (`.yaml`, `.yml`) with the fields of
    `Template`. Where the text ends at the history, the next item is the list's next entry: items stand bare, each on a
    line of its own that also ends the target. Elsewhere items are quoted, separated by ", ", and EOS ends the target.
    YAML fields left out get these values too; `without_history` defaults to the text without the line of the history.

    Raises:
        InputError: neither a preset nor a readable file, or the file makes no template.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        raise InputError(f"unknown prompt {name_or_path!r}: neither a preset ({', '.join(PRESETS)}) nor a file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        given = _read_yaml(text) if path.suffix in (".yaml", ".yml") else {"text": text}
        return _complete(given)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    except InputError as error:
        raise InputError(f"{path}: {error} (presets: {', '.join(PRESETS)})") from error


def _read_yaml(text: str) -> dict[str, Any]:
    """Return the fields in a YAML template, each of the type that `Template` gives it."""
    try:
        given = yaml.safe_load(text)
    except RecursionError:
        raise InputError("no valid YAML (brackets within too many others)") from None
    except yaml.YAMLError as error:
        raise InputError(f"no valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(given, dict):
        raise InputError("the YAML must hold the fields of a prompt template, such as `text:`")
    types: dict[str, type] = {field.name: bool if field.name == "eos" else str for field in fields(Template)}
    for name, value in given.items():
        if name not in types:
            raise InputError(f"unknown field {name!r}; a prompt template has {', '.join(types)}")
        if not isinstance(value, types[name]):
            raise InputError(f"field {name} must be {'true or false' if name == 'eos' else 'text'}, not {value!r}")
    if "text" not in given:
        raise InputError("the field text is missing")
    return given


def _complete(given: dict[str, Any]) -> Template:
    """Make a template, with defaults by whether its text ends at the history."""
    text = given["text"]
    if text.rstrip("\r\n").endswith(HISTORY):
        text = text.rstrip("\r\n")  # what editors put at the end of a file is no part of the list
        defaults: dict[str, Any] = {"item": "{item}", "separator": "\n", "closing": "\n", "eos": False}
    else:
        defaults = {}
    kept = [line for line in text.splitlines(keepends=True) if HISTORY not in line]
    return Template(**{"without_history": "".join(kept)} | defaults | given | {"text": text})
