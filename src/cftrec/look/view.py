"""The options of how a sample is shown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """How a sample is shown; names, defaults and meaning are those of training's options.

    Args:
        prompt: preset plain, alpaca, d3 or chat, or a template file with {category} and {history}.
        category: what the items are, such as movie; goes into the prompt.
        item_text: an item's text, made of the item table's columns, such as '{title} ({brand})'.
        window: most recent items a prompt shows (W).
        history_stride: a window's start moves every s items in training, so that samples share it; 1 is the paper.
    """

    prompt: str = "plain"
    category: str = "item"
    item_text: str = "{title}"
    window: int = 20
    history_stride: int = 10
