"""Log p of given items against brute force: random models, hostile catalogues, both softmaxes, any items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import BATCHING, LOOSE, MODELS, TOLERANCE, VOCABULARY, brute_force, catalogue_of

from cftrec.decoding import item_log_probs, sequence_log_probs
from cftrec.decoding.paths import prompt_log_probs
from cftrec.ragged import Ragged

tokens = st.integers(0, VOCABULARY - 1)
catalogues = st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=14)
prompts = st.lists(st.lists(tokens, min_size=1, max_size=7), min_size=1, max_size=3)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite", "gpt2", "mamba"])
@settings(max_examples=20, deadline=None)
@given(sequences=catalogues, starts=prompts, softmax=st.sampled_from(["catalogue", "vocabulary"]), data=st.data())
def test_equals_brute_force(kind, sequences, starts, softmax, data):
    """Titles that begin others and equal titles, items asked twice or not at all, rows that ask for nothing."""
    tolerance = LOOSE.get(kind, TOLERANCE)
    sequences = [*sequences, sequences[0][: len(sequences[0]) // 2 + 1], sequences[-1]]
    catalogue, model = catalogue_of(sequences), MODELS[kind]
    asked = [data.draw(st.lists(st.integers(0, len(sequences) - 1), max_size=8)) for _ in starts]
    arrays = [np.array(start, dtype=np.int32) for start in starts]
    found = item_log_probs(model, catalogue, arrays, Ragged.of(asked), softmax=softmax, batching=BATCHING[kind])
    runs = iter(found.split())
    for prompt, items in zip(arrays, asked, strict=True):
        scores = brute_force(model, catalogue, prompt, softmax)
        expected = sequence_log_probs(model, [prompt] * len(items), items, catalogue, softmax)
        for item, tokens in zip(items, expected, strict=True):
            run = next(runs)
            np.testing.assert_allclose(run, tokens, atol=tolerance)
            assert run.sum() == pytest.approx(scores[item], abs=tolerance)
    assert next(runs, None) is None


def test_no_prompt_at_all():
    found = item_log_probs(MODELS["llama"], catalogue_of([[1, 2], [3]]), [], Ragged.of([]))
    assert (len(found.values), len(found.lengths)) == (0, 0)


def test_a_shared_beginning_is_computed_once(monkeypatch):
    """Twenty titles of one long beginning: it is run once, not twenty times."""
    from cftrec.decoding import tree

    ran, append = [], tree.TokenTree.append

    def counted(self, row, parent, tokens, sizes):
        ran.append(len(tokens))
        return append(self, row, parent, tokens, sizes)

    monkeypatch.setattr(tree.TokenTree, "append", counted)
    catalogue = catalogue_of([[1, 2, 3, 4, 5, a, b] for a in range(4) for b in range(5)])
    prompt = np.array([7], np.int32)
    found = item_log_probs(MODELS["llama"], catalogue, [prompt], Ragged.of([list(range(20))]))
    assert ran == [5, 4]  # the beginning, then each first choice; a last token predicts nothing
    assert np.exp([run.sum() for run in found.split()]).sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mistral", "granite", "gpt2", "mamba"])
@settings(max_examples=15, deadline=None)
@given(sequences=catalogues, starts=st.lists(st.lists(tokens, min_size=1, max_size=7), max_size=6), data=st.data())
def test_one_item_after_many_prompts_equals_brute_force(kind, sequences, starts, data):
    """Prompts that begin each other or are equal, and titles without any choice."""
    catalogue, model = catalogue_of(sequences), MODELS[kind]
    item = data.draw(st.integers(0, len(sequences) - 1))
    arrays = [np.array(start, dtype=np.int32) for start in [*starts, *starts[:1]]]
    found = prompt_log_probs(model, catalogue, arrays, item, batching=BATCHING[kind])
    expected = sequence_log_probs(model, arrays, [item] * len(arrays), catalogue, "catalogue")
    assert found.shape == (len(arrays), len(sequences[item]))
    for run, tokens in zip(found, expected, strict=True):
        np.testing.assert_allclose(run, tokens, atol=LOOSE.get(kind, TOLERANCE))


def test_prompts_are_one_forest(monkeypatch):
    """Ten prompts that leave out one item each: what comes before it is computed once, in one call of the model."""
    ran, model = [], MODELS["llama"]
    forward = model.base_model.forward

    def counted(input_ids, **options):
        ran.append(input_ids.numel())
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(model.base_model, "forward", counted)
    history = np.arange(10, dtype=np.int32) % VOCABULARY
    prompts = [np.delete(history, place) for place in range(10)]
    prompt_log_probs(model, catalogue_of([[1, 2], [1, 3]]), prompts, 0)
    assert ran == [
        9 + sum(range(1, 10)) + 10
    ]  # the first nine items, what follows each gap, and the title's first token
