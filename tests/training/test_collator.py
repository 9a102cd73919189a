"""Samples, weighted tokens and batches against loops over items and tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from step_oracle import continuations, history

from cftrec.errors import InputError
from cftrec.forest.passes import Layout
from cftrec.objective import token_weights
from cftrec.text import Catalogue
from cftrec.training.collator import Samples, Scored, StepCollator, choices_at

token_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=8)


def catalogue_of(sequences):
    return Catalogue.build([str(n) for n in range(len(sequences))], ["t"] * len(sequences), sequences)


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (3, 1), (3, 3), (5, 2), (50, 10)])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_samples_are_the_targets_of_a_split_with_their_windows(dataset, split, window, stride):
    samples = Samples(dataset, split, window, stride)
    assert len(samples) == len(samples.positions) > 0
    assert [samples[n] for n in range(len(samples))] == list(range(len(samples)))
    assert samples.positions.tolist() == dataset.targets(split).tolist()
    for position, start, user in zip(samples.positions, samples.starts, samples.users, strict=True):
        assert dataset.offsets[user] <= start <= position < dataset.offsets[user + 1]
        assert dataset.events[start:position].tolist() == history(dataset, int(position), window, stride)
    assert samples.groups("users").tolist() == samples.users.tolist()
    assert len(set(samples.groups("random").tolist())) == len(samples)
    windows = samples.groups("windows")
    for a in range(len(samples)):
        for b in range(a):
            same = samples.users[a] == samples.users[b] and samples.starts[a] == samples.starts[b]
            assert (windows[a] == windows[b]) == same


@given(token_lists)
def test_under_the_vocabulary_every_token_is_weighted(sequences):
    scored = Scored.of(catalogue_of(sequences), "vocabulary")
    items = np.arange(len(sequences))
    weighted = scored.of_items(items)
    assert scored.places[weighted.values].tolist() == [place for s in sequences for place in range(len(s))]
    assert weighted.lengths.tolist() == [len(s) for s in sequences]
    assert scored.inputs.tolist() == [len(s) - 1 for s in sequences]


@given(token_lists)
def test_under_the_catalogue_forced_tokens_are_left_out(sequences):
    catalogue = catalogue_of(sequences)
    scored = Scored.of(catalogue, "catalogue")
    order = np.arange(len(sequences))[::-1]
    titles = [tuple(sequence) for sequence in sequences]
    for item, weighted in zip(order, scored.of_items(order).split(), strict=True):
        title, places, nodes = titles[item], scored.places[weighted], scored.nodes[weighted]
        choices = [place for place in range(len(title)) if len(continuations(titles, title[:place])) > 1]
        assert places.tolist() == choices
        assert scored.inputs[item] == max(choices, default=0)
        offsets, tokens = choices_at(catalogue, nodes)
        assert len(offsets) == len(choices) + 1
        for number, place in enumerate(choices):
            found = tokens[offsets[number] : offsets[number + 1]].tolist()
            assert sorted(found) == continuations(titles, title[:place])


def collator_of(dataset, prompt, catalogue, **options):
    return StepCollator(
        **{
            "data": dataset,
            "samples": Samples(dataset, "train", 5, 2),
            "prompt": prompt,
            "catalogue": catalogue,
            "softmax": "vocabulary",
            "beta": 0.25,
            "counterfactual": True,
            "layout": Layout(forest=True, pass_tokens=600, attention_call=500),
        }
        | options
    )


def sequences_at(passes):
    """For each wanted state of some passes, in their order, the tokens it has seen: those of its ancestors."""
    for part in passes:
        width = part["tokens"].shape[1]
        for node in part["nodes"].tolist():
            row, i = divmod(node, width)
            assert row == 0
            tokens, depth, end = part["tokens"][0], part["depth"], part["end"]
            ancestors = [j for j in range(i + 1) if i < end[j]]
            assert depth[ancestors].tolist() == list(range(len(ancestors)))
            yield tuple(tokens[ancestors].tolist())


@pytest.mark.parametrize("preset", ["plain", "alpaca", "d3"])
@pytest.mark.parametrize("softmax", ["vocabulary", "catalogue"])
@pytest.mark.parametrize("pass_tokens", [100, 10_000])
def test_a_batch_predicts_the_target_titles(dataset, assembled, preset, softmax, pass_tokens):
    """In several passes, and where all fits one in that one."""
    prompt, catalogue = assembled(prompt=preset)
    collator = collator_of(dataset, prompt, catalogue, softmax=softmax, layout=Layout(True, pass_tokens, 500))
    numbers = [7, 0, 3, 7, 21, 20]
    batch = collator(numbers)
    titles = [tuple(catalogue.sequence(item).tolist()) for item in range(len(catalogue))]
    expected, unshown, weights = [], [], []
    for number in numbers:
        position = int(collator.samples.positions[number])
        seen = [catalogue.sequence(item) for item in history(dataset, position, 5, 2)]
        shown = tuple(prompt.factual(seen, catalogue.longest).tolist())
        title = titles[dataset.events[position]]
        every = range(len(title))
        places = [p for p in every if softmax == "vocabulary" or len(continuations(titles, title[:p])) > 1]
        expected += [((*shown, *title[:place]), title[place]) for place in places]
        unshown += [(*prompt.counterfactual().tolist(), *title[:place]) for place in places]
        weights += token_weights([len(places)], beta=0.25).tolist()
    assert ("counterfactual" in batch) == (pass_tokens == 100)
    seen = list(sequences_at(batch["factual"] + batch.get("counterfactual", [])))
    found = list(zip(seen, batch["targets"].tolist(), strict=False))
    states = seen[len(found) :]
    pairs = [states[row] for row in batch["rows"].tolist()]
    together = zip(found, pairs, batch["weights"].tolist(), strict=True)
    assert sorted(together) == sorted(zip(expected, unshown, weights, strict=True))
    distinct = np.unique(dataset.events[collator.samples.positions[numbers]])
    assert len(states) == len(collator.scored.of_items(distinct).values), "equal targets share one branch"
    if softmax == "catalogue":
        offsets, tokens = batch["choice_offsets"], batch["choice_tokens"]
        for n, (_, before) in enumerate(zip(found, pairs, strict=True)):
            start = len(prompt.counterfactual())
            assert sorted(tokens[offsets[n] : offsets[n + 1]].tolist()) == continuations(titles, before[start:])
    else:
        assert "choice_offsets" not in batch


def test_the_targets_decode_to_their_titles(dataset, small_config):
    from cftrec.training.run import assemble

    _, tokenizer, prompt, catalogue = assemble(dataset, small_config(prompt="alpaca"))
    collator = collator_of(dataset, prompt, catalogue, counterfactual=False)
    for number in range(12):
        batch = collator([number])
        title = dataset.items["title"][int(dataset.events[collator.samples.positions[number]])]
        assert tokenizer.decode(batch["targets"].tolist()) == f'"{title}"<|endoftext|>'


@pytest.mark.parametrize("counterfactual", [True, False])
def test_counts_of_the_work(dataset, assembled, counterfactual):
    prompt, catalogue = assembled(prompt="plain")
    collator = collator_of(dataset, prompt, catalogue, counterfactual=counterfactual)
    numbers = list(range(10))
    batch = collator(numbers)
    assert ("rows" in batch) == counterfactual
    naive = 0
    for number in numbers:
        position = int(collator.samples.positions[number])
        seen = [catalogue.sequence(item) for item in history(dataset, position, 5, 2)]
        inputs = len(catalogue.sequence(int(dataset.events[position]))) - 1  # the last token is no input
        naive += len(prompt.factual(seen)) + inputs
        naive += (len(prompt.counterfactual()) + inputs) if counterfactual else 0
    passes = batch["factual"] + batch.get("counterfactual", [])
    computed = sum(part["tokens"].numel() for part in passes)
    assert batch["counts"].tolist() == [10, computed, naive]


def test_the_dtypes_and_the_bounds_of_a_batch(dataset, assembled):
    prompt, catalogue = assembled(prompt="plain")
    batch = collator_of(dataset, prompt, catalogue, softmax="catalogue", layout=Layout(True, 130, 500))(list(range(20)))
    for part in batch["factual"] + batch["counterfactual"]:
        assert {name: value.dtype for name, value in part.items()} == dict.fromkeys(part, torch.int64)
        rows, width = part["tokens"].shape
        assert rows == 1 or rows * width <= 130
        assert part["nodes"].max() < rows * width
    for name in ("targets", "rows", "choice_offsets", "choice_tokens", "counts"):
        assert batch[name].dtype == torch.int64
    assert batch["weights"].dtype == torch.float32
    assert sum(len(part["nodes"]) for part in batch["factual"]) == len(batch["targets"]) == len(batch["weights"])


def test_samples_of_a_window_share_its_trunk(dataset, assembled):
    """In `plain` a user's samples lie on one trunk, so a batch of them costs little more than the last one alone."""
    prompt, catalogue = assembled(prompt="plain")
    collator = collator_of(dataset, prompt, catalogue, samples=Samples(dataset, "train", 20, 10), counterfactual=False)
    longest = np.flatnonzero(collator.samples.users == 2)
    together, last = collator(longest.tolist()), collator(longest[-1:].tolist())
    assert together["counts"][1] == last["counts"][1]
    assert len(longest) == 11


def test_a_sample_of_the_samples_is_drawn_by_its_seed(dataset):
    whole = Samples(dataset, "train", 5, 2)
    one, same, other = (Samples(dataset, "train", 5, 2, sample=9, seed=seed) for seed in (1, 1, 2))
    assert len(one) == len(set(one.positions.tolist())) == 9
    assert (one.positions == same.positions).all()
    assert (one.positions != other.positions).any()
    windows = dict(zip(whole.positions.tolist(), whole.starts.tolist(), strict=True))
    assert [windows[position] for position in one.positions.tolist()] == one.starts.tolist()
    assert (Samples(dataset, "train", 5, 2, sample=len(whole)).positions == whole.positions).all()
    with pytest.raises(InputError, match=f"there are {len(whole)} training samples"):
        Samples(dataset, "train", 5, 2, sample=len(whole) + 1)
