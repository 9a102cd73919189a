"""Samples as text, exactly as a model will see them: no tokenizer changes what is written, it only cuts it up."""

from dataclasses import dataclass

import numpy as np

from cftrec.data import Dataset
from cftrec.data.windows import window_starts
from cftrec.errors import InputError
from cftrec.look.view import View
from cftrec.text import item_texts, load_template


@dataclass(frozen=True)
class Sample:
    """One sample: whose it is, how much of the history it shows, and its text."""

    user: str
    history: int  # items before the target
    shown: int  # of these, the newest
    prompt: str
    target: str


@dataclass(frozen=True)
class Samples:
    """Samples of one split, the prompt without history that all of them share, and what the text does not show."""

    split: str
    samples: list[Sample]
    without_history: str
    notes: list[str]


def draw_samples(dataset: Dataset, view: View, *, split: str = "train", count: int = 10, seed: int = 0) -> Samples:
    """Draw samples of a split at random, in the order of the dataset, and write them out.

    Raises:
        InputError: no such split, prompt or column, or a window that is none.
    """
    if not 1 <= view.history_stride <= view.window:
        raise InputError(
            f"option history_stride: {view.history_stride} with window {view.window}; give 1 to the window's size"
        )
    for name, given in (("samples", count), ("seed", seed)):
        if given < 0:
            raise InputError(f"option {name}: {given} is below 0; give 0 or more")
    targets = dataset.targets(split)
    drawn = np.random.default_rng(seed).choice(len(targets), min(count, len(targets)), replace=False)
    positions = targets[np.sort(drawn)]
    users = dataset.user_of(positions)
    first = dataset.offsets[users]
    # Only training moves its windows in strides; who evaluates or recommends shows the newest items.
    stride = view.history_stride if split == "train" else 1
    starts = first + window_starts(positions - first, view.window, stride)
    template, texts = load_template(view.prompt), item_texts(dataset.items, view.item_text)
    without_history = template.fill(view.category)[2]
    samples = [
        Sample(
            user=dataset.users[user],
            history=position - begin,
            shown=position - start,
            prompt=template.prompt_text(view.category, [texts[item] for item in dataset.events[start:position]])
            if start < position
            else without_history,
            target=template.target_text(texts[dataset.events[position]]),
        )
        for position, user, begin, start in zip(*(a.tolist() for a in (positions, users, first, starts)), strict=True)
    ]
    notes = []
    if view.prompt == "chat":
        notes.append("this is the user's message; the model's chat template stands around it and ends the target")
    elif template.eos:
        notes.append("the end-of-sequence token follows each target")
    return Samples(split, samples, without_history, notes)
