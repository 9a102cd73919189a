"""Free generation and its grounding against loops: greedy decoding, titles one at a time, turns."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import MODELS, VOCABULARY, catalogue_of
from transformers import GenerationConfig

from cftrec.decoding.ungrounded import _generate, take_turns, title_embeddings, ungrounded
from cftrec.text import Prompt

CLOSING = 9
TITLES = [[1, 2, CLOSING], [1, CLOSING], [3, 4, 5, CLOSING], [CLOSING], [1, 2, CLOSING]]
PROMPT = Prompt(prefix=(7,), suffix=(), separator=(CLOSING,), closing=(CLOSING,), without_history=(7,))
STARTS = [np.array(start, np.int32) for start in ([7], [7, 1, 2, 9, 3, 4], [7, 8, 8])]


@given(st.data(), st.integers(1, 4), st.integers(1, 6), st.integers(1, 9))
def test_turns_equal_a_loop(data, beams, items, k):
    near = st.integers(0, 5)  # ties
    rows = st.lists(st.lists(near, min_size=items, max_size=items), min_size=beams, max_size=beams)
    users = data.draw(st.lists(rows, max_size=3))
    excluded = [data.draw(st.lists(st.integers(0, items - 1), unique=True)) for _ in users]
    distances = np.array(users, dtype=np.float32).reshape(len(users), beams, items)
    found, scores = take_turns(distances, k, [np.array(left_out, dtype=int) for left_out in excluded])
    for row in range(len(users)):
        left = [item for item in range(items) if item not in excluded[row]]
        expected = []
        for turn in range(min(k, len(left))):
            own = distances[row, turn % beams]
            expected.append(min(left, key=lambda item: (own[item], item)))
            left.remove(expected[-1])
        assert found[row].tolist() == expected + [-1] * (k - len(expected))
        assert scores[row][: len(expected)].tolist() == [
            -distances[row, turn % beams, item] for turn, item in enumerate(expected)
        ]
        assert np.isneginf(scores[row][len(expected) :]).all()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mamba"])
def test_embeddings_are_the_last_hidden_states_of_single_titles(kind):
    model = MODELS[kind]
    with_start = title_embeddings(model, catalogue_of(TITLES), PROMPT)
    for title, found in zip(TITLES, with_start, strict=True):
        shown = title[:-1] or title
        with torch.no_grad():
            states = model(input_ids=torch.tensor([shown]), output_hidden_states=True).hidden_states[-1]
        np.testing.assert_allclose(found, states[0, -1].float().numpy(), atol=1e-4)


def greedy(model, start: np.ndarray, most: int) -> list[int]:
    written: list[int] = []
    while len(written) < most and CLOSING not in written:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*start.tolist(), *written]])).logits[0, -1]
        written.append(int(logits.argmax()))
    return written


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "gemma3_text", "mistral", "gpt2"])
@pytest.mark.parametrize("starts", [STARTS, STARTS[1:2], STARTS[2:] * 2])
def test_one_beam_is_greedy_whatever_the_model_came_with(kind, starts):
    """Padded together or not, and none of the settings that a base model brings along has a say."""
    model = MODELS[kind]
    before = model.generation_config
    model.generation_config = GenerationConfig(
        repetition_penalty=5.0, do_sample=True, temperature=9.0, min_new_tokens=5, bad_words_ids=[[1]], eos_token_id=1
    )
    try:
        inherited = model.generation_config
        written = _generate(model, starts, CLOSING, 6, 1)
        assert model.generation_config is inherited
    finally:
        model.generation_config = before
    assert [title.tolist() for title in written] == [greedy(model, start, 6) for start in starts]


def test_beams_are_grounded_in_turn():
    model, catalogue = MODELS["qwen2"], catalogue_of(TITLES)
    embeddings = title_embeddings(model, catalogue, PROMPT)
    excluded = [np.array([0, 4]), np.array([], dtype=int), np.arange(len(TITLES))]
    found = ungrounded(
        model, catalogue, PROMPT, STARTS, 3, embeddings=embeddings, excluded=excluded, beams=VOCABULARY // 3
    )
    written = _generate(model, STARTS, CLOSING, catalogue.longest, 3)
    assert found.invented.tolist() == [
        [title.tolist() not in TITLES for title in written[3 * row : 3 * row + 3]] for row in range(3)
    ]
    queries = title_embeddings(model, catalogue_of([title.tolist() for title in written]), PROMPT)
    distances = np.linalg.norm(queries[:, None] - embeddings, axis=2).reshape(3, 3, -1)
    items, scores = take_turns(distances, 3, excluded)
    assert found.items.tolist() == items.tolist()
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    assert found.items[2].tolist() == [-1, -1, -1]
    options = {"embeddings": embeddings, "excluded": excluded, "beams": 3}
    best = ungrounded(model, catalogue, PROMPT, STARTS, 3, grounded=1, **options)
    assert best.items.tolist() == take_turns(distances[:, :1], 3, excluded)[0].tolist()
    assert best.invented.tolist() == found.invented.tolist()
    assert not found.exact.any()
