"""Hostile catalogues of real texts: whatever is found is in the catalogue, allowed, and the best there is."""

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SHAPE

from cftrec.decoding import Cap, search, sequence_log_probs
from cftrec.text import Catalogue, build_prompt, tokenise_items, train_tokenizer

PIECES = [
    "a",
    "ab",
    " ",
    "A B",
    "🎬",
    "👩‍🚀",
    "🇪🇺",
    "שלום",
    "مرحبا ",
    "\u202eevil",
    "é",
    "e\u0301",
    "中文",
    "<|endoftext|>",
]
PIECES += ["<|im_end|>", "\\n", "{title}", "%s", "'; --", "0"]
LONG = "".join(PIECES) * 6  # some hundred tokens
TOLERANCE = 1e-4

TOKENIZER = train_tokenizer(PIECES, 300)
PROMPT = build_prompt("plain", TOKENIZER, category="item")


def model_of(vocabulary: int, **options: int):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE | {"vocab_size": vocabulary, "max_position_embeddings": 2048} | options)
    model = transformers.LlamaForCausalLM(config).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    return model


MODEL = model_of(len(TOKENIZER))
title = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join).filter(str.strip)


def test_the_long_title_is_long():
    assert len(tokenise_items([LONG], TOKENIZER, PROMPT)[0]) > 300


@st.composite
def title_lists(draw):
    """Titles that begin one another, now and then one of hundreds of tokens, now and then one title alone."""
    titles = draw(st.lists(title, min_size=1, max_size=6))
    titles += [draw(st.sampled_from(titles)) + more for more in draw(st.lists(title, max_size=4))]
    return list(dict.fromkeys(titles + draw(st.sampled_from([[], [], [LONG], [LONG, LONG + "a"]]))))


@settings(max_examples=25, deadline=None)
@given(titles=title_lists(), softmax=st.sampled_from(["catalogue", "vocabulary"]), data=st.data())
def test_what_is_found_is_in_the_catalogue_and_allowed(titles, softmax, data):
    sequences = tokenise_items(titles, TOKENIZER, PROMPT)
    size = len(titles)
    catalogue = Catalogue.build([str(n) for n in range(size)], titles, sequences)
    some = st.lists(st.integers(0, size - 1), max_size=size)
    users, k = 5, data.draw(st.integers(1, size))
    prompts = [
        PROMPT.factual([np.array(sequences[n], dtype=np.int32) for n in data.draw(some)], catalogue.longest)
        for _ in range(users)
    ]
    allowed, excluded = (
        data.draw(st.lists(lists, min_size=users, max_size=users)) for lists in (st.none() | some, some)
    )
    caps = [Cap(np.array(data.draw(st.lists(st.integers(-1, 2), min_size=size, max_size=size))), 1)]
    options = data.draw(st.sampled_from([{}, {"beam": 1}, {"budget": 2}]))
    found = search(
        MODEL, catalogue, prompts, k, softmax=softmax, allowed=allowed, excluded=excluded, caps=caps, **options
    )
    for row in range(users):
        may = set(range(size) if allowed[row] is None else allowed[row]) - set(excluded[row])
        got = found.items[row][found.items[row] >= 0].tolist()
        assert set(got) <= may
        assert len(set(got)) == len(got)
        groups = [group for group in caps[0].groups[got].tolist() if group >= 0]
        assert len(set(groups)) == len(groups)
    # Brute force on one user: the right scores, and where the list is said to be exact nothing better is left out.
    log_probs = sequence_log_probs(MODEL, prompts[:1] * size, list(range(size)), catalogue, softmax)
    scores = np.array([tokens.sum() for tokens in log_probs])
    may = set(range(size) if allowed[0] is None else allowed[0]) - set(excluded[0])
    got = found.items[0][found.items[0] >= 0].tolist()
    np.testing.assert_allclose(found.scores[0][: len(got)], scores[got], atol=TOLERANCE)
    if found.exact[0]:
        expected, full = [], set()
        for item in sorted(may, key=lambda item: -scores[item]):
            group = int(caps[0].groups[item])
            if group not in full and len(expected) < k:
                expected.append(item)
                full |= {group} - {-1}
        np.testing.assert_allclose(found.scores[0][: len(got)], scores[expected], atol=TOLERANCE)


@pytest.mark.parametrize("softmax", ["catalogue", "vocabulary"])
def test_fifty_thousand_children_of_the_root(softmax):
    """Every second title goes on by a choice, so that children are opened as well as found."""
    count, rng = 50_000, np.random.default_rng(0)
    model = model_of(count)
    sequences = [[n, 1] for n in range(count)] + [[n, 2] for n in range(0, count, 2)]
    names = [str(n) for n in range(len(sequences))]
    catalogue = Catalogue.build(names, names, sequences)
    prompts = [rng.integers(0, count, 3).astype(np.int32) for _ in range(2)]
    few = rng.permutation(len(sequences))[:40]
    # Of all titles, a random model under the vocabulary softmax finds too many alike.
    lists = [few[:20] if softmax == "vocabulary" else None, few]
    found = search(model, catalogue, prompts, 5, softmax=softmax, allowed=lists)
    assert found.exact.all()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(np.stack(prompts), dtype=torch.int64)).logits[:, -1]
    first = torch.log_softmax(logits, 1).numpy()
    for row, listed in enumerate(lists):
        pool = np.arange(len(sequences)) if listed is None else listed
        begins = first[row, [sequences[item][0] for item in pool]]
        order = np.argsort(-begins)
        near = pool[order[:40]]
        scores = [
            tokens.sum() for tokens in sequence_log_probs(model, [prompts[row]] * len(near), near, catalogue, softmax)
        ]
        best = np.sort(scores)[::-1][:5]
        assert begins[order[40:]].max(initial=-np.inf) < best[-1]  # so the others cannot be among the best
        np.testing.assert_allclose(found.scores[row], best, atol=TOLERANCE)
        assert set(found.items[row].tolist()) <= set(near.tolist())
