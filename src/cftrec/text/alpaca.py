"""A Dataset's samples as the Alpaca JSON that BIGRec's and CFT's code trains on (arXiv 2308.08434, 2410.22809)."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from cftrec.artefacts import new_folder
from cftrec.data import SPLITS, Dataset
from cftrec.errors import InputError
from cftrec.text.template import ITEM, Template, load_template

FILES = dict(zip(SPLITS, ("train.json", "valid.json", "test.json"), strict=True))
_BEFORE = re.compile(r"### Instruction:\s*\n(.*?)\n\n### (?:User )?Input: ?\n(.*)\Z", re.DOTALL)
_AFTER = re.compile(r"(.*)\n\n### Response: ?\n\Z", re.DOTALL)


def write_alpaca(
    dataset: Dataset, prompt: str, folder: str | Path, *, category: str = "item", window: int = 10
) -> dict[str, int]:
    """Write train.json, valid.json and test.json: lists of `instruction`, `input` and `output`, a sample each.

    `cftrec prepare --format alpaca` reads them again: the same histories (the newest `window`) and targets, where no
    title holds `", "` in quotes of its own. A sample without history has an empty `input`.

    Args:
        dataset: whose samples; items are written by their titles.
        prompt: preset alpaca or d3, or a template file with the sections Instruction, Input and Response.
        folder: to make; must be free.
        category: what the items are, such as "movie".
        window: most recent items that an `input` shows; default as published.

    Returns:
        Records written for each split.

    Raises:
        InputError: the prompt has no such sections, or the folder is taken.
    """
    template = load_template(prompt)
    before, after, _ = template.fill(category)
    head, tail = _BEFORE.search(before), _AFTER.match(after)
    if head is None or tail is None:
        raise InputError(
            f"prompt {prompt}: Alpaca JSON needs the sections Instruction, Input and Response; take alpaca"
        )
    wording = (head[1], head[2], tail[1])
    facts = {"dataset": dataset.manifest.get("name"), "prompt": prompt, "category": category, "window": window}
    written = {}
    with new_folder(Path(folder), "alpaca", facts) as staging:
        for split, name in FILES.items():
            with (staging / name).open("w", encoding="utf-8") as file:
                written[split] = 0
                for record in _records(dataset, split, template, wording, window):
                    file.write(",\n" if written[split] else "[\n")
                    file.write(json.dumps(record, ensure_ascii=False))
                    written[split] += 1
                file.write("\n]\n" if written[split] else "[]\n")
    return written


def _records(
    dataset: Dataset, split: str, template: Template, wording: tuple[str, str, str], window: int
) -> Iterator[dict[str, str]]:
    instruction, lead, tail = wording
    texts = [template.item.replace(ITEM, title) for title in dataset.items["title"]]
    for position in dataset.targets(split).tolist():
        shown = template.separator.join(texts[item] for item in dataset.history(position, window))
        target = texts[dataset.events[position]] + template.closing
        yield {"instruction": instruction, "input": lead + shown + tail if shown else "", "output": target}
