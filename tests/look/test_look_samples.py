"""Samples as text against what the model is given: the tokens of the prompt, decoded."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from cftrec.data import Dataset
from cftrec.errors import InputError
from cftrec.look.samples import draw_samples
from cftrec.look.view import View
from cftrec.text import PRESETS, Catalogue, build_prompt, item_texts, load_template, tokenise_items, train_tokenizer
from cftrec.training.collator import Samples

TITLES = ["Amélie 🎬", 'A "quoted" one', "<b>&amp;", "Up", "Two\twords", "M", "<|endoftext|>"]


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(1)
    counts = np.array([9, 1, 30, 4])
    return Dataset(
        items=pl.DataFrame({"item_id": [str(n) for n in range(7)], "title": TITLES, "year": list("1234567")}),
        users=pl.Series("user_id", ["<u>", "v", "w", "x"]),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        events=rng.integers(0, 7, 44).astype(np.int32),
        split=np.repeat([0, 0, 0, 2], counts).astype(np.uint8),
        timestamps=None,
        manifest={},
    )


@pytest.mark.parametrize("preset", ["plain", "alpaca", "d3"])
@pytest.mark.parametrize("window", [(20, 10), (3, 1)])
def test_the_text_is_what_the_tokens_say(data: Dataset, preset: str, window: tuple[int, int]) -> None:
    view = View(preset, "movie", "{title} [{year}]", *window)
    shown = draw_samples(data, view, count=10)
    texts = item_texts(data.items, view.item_text)
    tokenizer = train_tokenizer([*texts, *load_template(preset).fill("movie")], 400)
    prompt = build_prompt(preset, tokenizer, category="movie")
    sequences = tokenise_items(texts, tokenizer, prompt)
    catalogue = Catalogue.build(data.items["item_id"].to_list(), TITLES, sequences)
    samples = Samples(data, "train", *window)
    given = set()
    for start, position in zip(samples.starts, samples.positions, strict=True):
        tokens = prompt.factual([catalogue.sequence(item) for item in data.events[start:position]])
        target = catalogue.sequence(data.events[position])
        target = target[:-1] if PRESETS[preset].eos else target
        given.add((tokenizer.decode(tokens), tokenizer.decode(target), position - start))
    assert len(shown.samples) == 10
    assert {(sample.prompt, sample.target, sample.shown) for sample in shown.samples} <= given
    assert shown.without_history == tokenizer.decode(prompt.counterfactual())
    assert shown.notes == (["the end-of-sequence token follows each target"] if PRESETS[preset].eos else [])


def test_outside_training_the_newest_items_are_shown(data: Dataset) -> None:
    """As a recommender shows a history: the last `window` items, or the prompt without history where there is none."""
    shown = draw_samples(data, View(window=2, history_stride=2), split="test")
    template, titles = load_template("plain"), item_texts(data.items, "{title}")
    seen = [[titles[item] for item in data.history(position, 2)] for position in range(40, 44)]
    assert [sample.shown for sample in shown.samples] == [0, 1, 2, 2]
    assert [sample.prompt for sample in shown.samples[1:]] == [template.prompt_text("item", s) for s in seen[1:]]
    assert shown.samples[0].prompt == shown.without_history


def test_draws_are_seeded_and_bounded(data: Dataset) -> None:
    few = draw_samples(data, View(), split="test", count=99)
    assert [(sample.user, sample.history) for sample in few.samples] == [("x", n) for n in range(4)]
    assert draw_samples(data, View(), count=5, seed=1) == draw_samples(data, View(), count=5, seed=1)
    assert draw_samples(data, View(), count=5, seed=1) != draw_samples(data, View(), count=5, seed=2)
    assert "chat template" in draw_samples(data, View(prompt="chat"), count=1).notes[0]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"view": View(window=3)}, "history_stride"),
        ({"view": View(history_stride=0)}, "history_stride"),
        ({"count": -1}, "samples"),
        ({"split": "dev"}, "unknown split"),
        ({"view": View(prompt="nowhere")}, "unknown prompt"),
        ({"view": View(item_text="{brand}")}, "brand"),
    ],
)
def test_bad_input(data: Dataset, wrong: dict, named: str) -> None:
    options = SimpleNamespace(**{"view": View(), "count": 1, "split": "train"} | wrong)
    with pytest.raises(InputError, match=named):
        draw_samples(data, options.view, split=options.split, count=options.count)
