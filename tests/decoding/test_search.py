"""The search against brute force: random models, hostile catalogues, both softmaxes."""

import sys

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import BATCHING, FORESTS, LOOSE, MODELS, SHAPE, TOLERANCE, VOCABULARY, brute_force, catalogue_of

from cftrec.decoding import Cap, search, sequence_log_probs
from cftrec.decoding.tree import TokenTree


def best(scores: np.ndarray, k: int, excluded: list[int]) -> np.ndarray:
    left = scores.copy()
    left[excluded] = -np.inf
    order = np.lexsort((np.arange(len(scores)), -left))[:k]
    return order[left[order] > -np.inf]


tokens = st.integers(0, VOCABULARY - 1)
catalogues = st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=14)
prompts = st.lists(st.lists(tokens, min_size=1, max_size=7), min_size=1, max_size=3)


@pytest.mark.parametrize("kind", sorted(MODELS))
@settings(max_examples=30, deadline=None)
@given(
    sequences=catalogues,
    starts=prompts,
    k=st.integers(1, 6),
    softmax=st.sampled_from(["catalogue", "vocabulary"]),
    data=st.data(),
)
def test_equals_brute_force(kind, sequences, starts, k, softmax, data):
    """Scores are equal; the order is, where scores differ; what is excluded is left out; the certificate is given."""
    # Half of the catalogues get titles that begin another one, and equal titles.
    tolerance = LOOSE.get(kind, TOLERANCE)
    sequences = [*sequences, sequences[0][: len(sequences[0]) // 2 + 1], sequences[-1]]
    catalogue, model = catalogue_of(sequences), MODELS[kind]
    arrays = [np.array(start, dtype=np.int32) for start in starts]
    excluded = [data.draw(st.lists(st.integers(0, len(sequences) - 1), max_size=3)) for _ in starts]
    banned = [np.array(items, dtype=int) for items in excluded]
    found = search(model, catalogue, arrays, k, softmax=softmax, excluded=banned, batching=BATCHING[kind])
    assert found.exact.all()
    for row, prompt in enumerate(arrays):
        scores = brute_force(model, catalogue, prompt, softmax)
        expected = best(scores, k, excluded[row])
        got = found.items[row][found.items[row] >= 0]
        assert len(got) == len(expected) == len(set(got.tolist()))
        np.testing.assert_allclose(found.scores[row][: len(got)], scores[expected], atol=tolerance)
        np.testing.assert_allclose(found.scores[row][: len(got)], scores[got], atol=tolerance)
        assert (found.items[row][len(got) :] == -1).all()
        assert np.isneginf(found.scores[row][len(got) :]).all()
        if len(expected) > 1 and np.abs(np.diff(scores[expected])).min() > tolerance:
            outside = np.delete(scores, [*expected, *excluded[row]])
            if not len(outside) or scores[expected[-1]] - outside.max() > tolerance:
                assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("softmax", ["catalogue", "vocabulary"])
@pytest.mark.parametrize("kind", sorted(MODELS))
def test_scores_by_padded_batches_equal_single_sequences(kind, softmax):
    rng = np.random.default_rng(3)
    catalogue = catalogue_of([rng.integers(0, VOCABULARY, rng.integers(1, 7)).tolist() for _ in range(9)])
    starts = [rng.integers(0, VOCABULARY, length).astype(np.int32) for length in (1, 8, 3)]
    items = [int(item) for item in range(9)]
    for prompt in starts:
        log_p = sequence_log_probs(MODELS[kind], [prompt] * 9, items, catalogue, softmax)
        assert [len(tokens) for tokens in log_p] == [len(catalogue.sequence(item)) for item in items]
        sums = np.array([tokens.sum() for tokens in log_p])
        np.testing.assert_allclose(
            sums, brute_force(MODELS[kind], catalogue, prompt, softmax), atol=LOOSE.get(kind, TOLERANCE)
        )


def model_of_logits(logits: list[float]):
    """Make a model that gives the same logits everywhere."""
    config = transformers.LlamaConfig(**SHAPE | {"vocab_size": len(logits), "tie_word_embeddings": False})
    model = transformers.LlamaForCausalLM(config).eval().double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1 if "norm" in name or "embed" in name else 0)
        model.lm_head.weight += torch.tensor(logits, dtype=torch.float64)[:, None] / config.hidden_size
    return model


def test_a_close_call_is_not_pruned():
    """The twelve likeliest beginnings are expanded first; a thirteenth is below them, but goes on with certainty.

    Its title is a 200th part of a nat above the twelfth best found until then, and so belongs to the best twelve.
    """
    x, y, z, w = 13, 14, 15, 16  # each of the twelve goes on with x or y, the thirteenth with z or w
    lead = 0.03  # log p(x) = -0.03
    logits = [-0.001 * a for a in range(12)] + [-0.011 - lead + 0.005] + [0, float(np.log(np.expm1(lead))), 0, -60]
    sequences = [[a, token] for a in range(12) for token in (x, y)] + [[12, z], [12, w]]
    catalogue, model = catalogue_of(sequences), model_of_logits(logits)
    found = search(model, catalogue, [np.array([0], np.int32)], 12)
    scores = brute_force(model, catalogue, np.array([0]), "catalogue")
    np.testing.assert_allclose(found.scores[0], np.sort(scores)[::-1][:12], atol=TOLERANCE)
    assert set(found.items[0].tolist()) == {*range(0, 22, 2), 24}
    assert found.exact.all()


def test_catalogue_probabilities_sum_to_one():
    """Where no title begins another, the catalogue softmax is a distribution over items."""
    sequences = [[a, b, 9] for a in range(4) for b in range(3)]
    scores = search(MODELS["qwen2"], catalogue_of(sequences), [np.array([1, 2], np.int32)], 12).scores
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-5)


def naive_list(scores: np.ndarray, k: int, allowed: set[int], caps: list[Cap]) -> list[int]:
    """Go down all allowed items and take those whose groups are not full."""
    taken: list[int] = []
    for item in np.lexsort((np.arange(len(scores)), -scores)).tolist():
        full = any(
            cap.groups[item] >= 0 and sum(cap.groups[other] == cap.groups[item] for other in taken) >= cap.most
            for cap in caps
        )
        if item in allowed and not full and len(taken) < k:
            taken.append(item)
    return taken


@settings(max_examples=40, deadline=None)
@given(
    sequences=catalogues,
    starts=prompts,
    k=st.integers(1, 6),
    softmax=st.sampled_from(["catalogue", "vocabulary"]),
    width=st.sampled_from([1, 12]),
    data=st.data(),
)
def test_rules_equal_brute_force(sequences, starts, k, softmax, width, data):
    """Allow lists, deny lists and caps on any number of columns: the list of whoever goes down all scores.

    Ties decide who takes a group's last place, so titles are told apart.
    """
    model = MODELS["qwen2"]
    catalogue = catalogue_of([list(sequence) for sequence in {tuple(sequence) for sequence in sequences}])
    size = len(catalogue)
    some = st.lists(st.integers(0, size - 1), max_size=size)
    excluded = [data.draw(some) for _ in starts]
    allowed = [data.draw(st.none() | some) for _ in starts]
    group = st.lists(st.integers(-1, 2), min_size=size, max_size=size).map(np.array)
    caps = data.draw(st.lists(st.builds(Cap, group, st.integers(1, 2)), max_size=3))
    arrays = [np.array(start, dtype=np.int32) for start in starts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[search.__module__], "_TOKENS", width)
        found = search(model, catalogue, arrays, k, softmax=softmax, excluded=excluded, allowed=allowed, caps=caps)
    assert found.exact.all()
    for row, prompt in enumerate(arrays):
        scores = brute_force(model, catalogue, prompt, softmax)
        may = set(range(size) if allowed[row] is None else allowed[row]) - set(excluded[row])
        got = found.items[row][found.items[row] >= 0].tolist()
        assert set(got) <= may
        if len(scores) == 1 or np.diff(np.sort(scores)).min() > TOLERANCE:
            assert got == naive_list(scores, k, may, caps)


def test_dead_subtrees_are_not_visited():
    rng = np.random.default_rng(0)
    catalogue = catalogue_of([rng.integers(0, VOCABULARY, 6).tolist() for _ in range(300)])
    prompt = [np.array([1], np.int32)]
    item = int(search(MODELS["qwen2"], catalogue, prompt, 300, softmax="vocabulary").items[0, -1])
    found = search(MODELS["qwen2"], catalogue, prompt, 1, softmax="vocabulary", allowed=[[item]])
    assert found.items.tolist() == [[item]]
    assert found.expanded[0] <= 6  # one a token


@settings(max_examples=40, deadline=None)
@given(
    sequences=catalogues,
    starts=prompts,
    k=st.integers(1, 6),
    softmax=st.sampled_from(["catalogue", "vocabulary"]),
    limit=st.sampled_from([{"budget": 1}, {"budget": 3}, {"beam": 1}, {"beam": 2}, {"budget_ms": 0}]),
)
def test_an_early_end_bounds_what_it_left_aside(sequences, starts, k, softmax, limit):
    """What is found is scored right; what is not found is below the bound or the list; an exact list is the best."""
    catalogue = catalogue_of(sequences)
    arrays = [np.array(start, dtype=np.int32) for start in starts]
    found = search(MODELS["qwen2"], catalogue, arrays, k, softmax=softmax, **limit)
    assert (np.isneginf(found.bound) == found.exact).all()
    for row, prompt in enumerate(arrays):
        scores = brute_force(MODELS["qwen2"], catalogue, prompt, softmax)
        got = found.items[row][found.items[row] >= 0]
        np.testing.assert_allclose(found.scores[row][: len(got)], scores[got], atol=TOLERANCE)
        missed = np.delete(scores, got).max(initial=-np.inf)
        assert missed <= max(found.bound[row], found.scores[row, -1]) + TOLERANCE
        if found.exact[row]:
            expected = np.sort(scores)[::-1][:k]
            np.testing.assert_allclose(found.scores[row][: len(expected)], expected, atol=TOLERANCE)


def naive_beam(model, sequences, prompt, k, b):
    """Beam search by choices under the catalogue softmax: every level's b likeliest beginnings of several titles."""
    open_, finished = [((), 0.0)], []
    while open_:
        new = []
        for beginning, score in open_:
            count = len(beginning)
            under = [s for s in sequences if s[:count] == beginning]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *beginning]])).logits[0, -1]
            tokens = sorted({s[count] for s in under})
            for token, log_p in zip(tokens, torch.log_softmax(logits[tokens], 0).tolist(), strict=True):
                way = (*beginning, token)
                rest = [s for s in under if s[: count + 1] == way]
                while len(way) < 6 and len({s[len(way)] for s in rest}) == 1:
                    way = (*way, rest[0][len(way)])
                (finished if len(way) == 6 else new).append((way, score + log_p))
        open_ = sorted(new, key=lambda pair: -pair[1])[:b]
    return sorted((score for _, score in finished), reverse=True)[:k]


@pytest.mark.parametrize("beam", [1, 3])
def test_a_beam_is_a_beam(beam):
    """It keeps a level's best and no more, so it may miss the best title, and says so."""
    rng = np.random.default_rng(4)
    sequences = list({tuple(rng.integers(0, 4, 6).tolist()) for _ in range(200)})
    catalogue = catalogue_of([list(s) for s in sequences])
    starts = [rng.integers(0, VOCABULARY, 3).astype(np.int32) for _ in range(4)]
    found = search(MODELS["qwen2"], catalogue, starts, 5, beam=beam)
    whole = search(MODELS["qwen2"], catalogue, starts, 5)
    for row, start in enumerate(starts):
        expected = naive_beam(MODELS["qwen2"], sequences, start.tolist(), 5, beam)
        count = len(expected)
        np.testing.assert_allclose(found.scores[row][:count], expected, atol=TOLERANCE)
        assert not found.exact[row] or np.allclose(found.scores[row], whole.scores[row])
    assert not found.exact.all()
    assert search(MODELS["qwen2"], catalogue, starts, 5, beam=10**6).exact.all()


@pytest.mark.parametrize("row_tokens", [1, 40, 512])
@pytest.mark.parametrize("kind", sorted(FORESTS))
@torch.no_grad()
def test_prompts_as_forests_change_nothing(kind, row_tokens, monkeypatch):
    """Shared beginnings, equal prompts, and prompts that begin others, in one row and in several."""
    monkeypatch.setattr("cftrec.decoding.tree._ROW_TOKENS", row_tokens)
    rng = np.random.default_rng(5)
    frame = rng.integers(0, VOCABULARY, 9)
    starts = [np.append(frame, rng.integers(0, VOCABULARY, n)).astype(np.int32) for n in (0, 1, 4, 6, 4, 0, 13)]
    starts += [starts[3], rng.integers(0, VOCABULARY, 2).astype(np.int32)]
    tree = TokenTree(MODELS[kind], starts)
    row, sizes = np.arange(len(starts)), np.full(len(starts), 2)
    tokens = rng.integers(0, VOCABULARY, 2 * len(starts))
    hidden = tree.append(row, row, tokens, sizes).reshape(len(starts), 2, -1)
    for place, start in enumerate(starts):
        alone = TokenTree(MODELS[kind], [start])
        np.testing.assert_allclose(tree.root[place], alone.root[0], atol=TOLERANCE)
        own = alone.append(row[:1], row[:1], tokens[2 * place : 2 * place + 2], sizes[:1])
        np.testing.assert_allclose(hidden[place], own, atol=TOLERANCE)


def test_what_all_prompts_begin_with_is_computed_once(monkeypatch):
    computed, run = [], TokenTree._run
    monkeypatch.setattr(
        TokenTree, "_run", lambda self, tokens, *rest: computed.append(tokens.size) or run(self, tokens, *rest)
    )
    TokenTree(MODELS["llama"], [np.append(np.arange(30) % VOCABULARY, [n]).astype(np.int32) for n in range(9)])
    assert computed == [39]


def test_a_spent_budget_gives_no_certificate():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, VOCABULARY, 6).tolist() for _ in range(300)]
    starts = [np.array([token], np.int32) for token in range(3)]
    found = search(MODELS["qwen2"], catalogue_of(sequences), starts, 20, softmax="vocabulary", budget=1)
    whole = search(MODELS["qwen2"], catalogue_of(sequences), starts, 20, softmax="vocabulary")
    assert not found.exact.any()
    assert whole.exact.all()
    assert (found.expanded < whole.expanded).all()


@pytest.mark.parametrize("most", [2**63 - 1, 2**63, 10**30])
def test_bounds_beyond_an_integer_are_none(most):
    rng = np.random.default_rng(0)
    catalogue = catalogue_of([rng.integers(0, VOCABULARY, 6).tolist() for _ in range(40)])
    starts = [np.array([token], np.int32) for token in range(2)]
    whole = search(MODELS["qwen2"], catalogue, starts, 5)
    for options in ({"budget": most}, {"beam": most}, {"budget": most, "beam": most}):
        found = search(MODELS["qwen2"], catalogue, starts, 5, **options)
        assert found.items.tolist() == whole.items.tolist()
        assert found.exact.all()


def test_one_item_needs_no_search():
    found = search(MODELS["gpt2"], catalogue_of([[1, 2, 3]]), [np.array([5], np.int32)], 3)
    assert found.items.tolist() == [[0, -1, -1]]
    assert found.scores[0, 0] == 0
    assert found.exact.all()
    assert found.expanded.tolist() == [0]


def test_everything_excluded():
    found = search(MODELS["gpt2"], catalogue_of([[1], [2]]), [np.array([5], np.int32)], 2, excluded=[np.array([0, 1])])
    assert found.items.tolist() == [[-1, -1]]
    assert found.exact.all()


@pytest.mark.parametrize(("kind", "batching"), [("mistral", "forest"), ("mistral", "padded"), ("mamba", "padded")])
def test_users_of_a_batch_do_not_see_each_other(kind, batching):
    rng = np.random.default_rng(1)
    catalogue = catalogue_of([rng.integers(0, VOCABULARY, rng.integers(2, 6)).tolist() for _ in range(60)])
    starts = [rng.integers(0, VOCABULARY, rng.integers(1, 12)).astype(np.int32) for _ in range(9)]
    for softmax in ("catalogue", "vocabulary"):
        together = search(MODELS[kind], catalogue, starts, 5, softmax=softmax, batching=batching)
        for row, start in enumerate(starts):
            alone = search(MODELS[kind], catalogue, [start], 5, softmax=softmax, batching=batching)
            np.testing.assert_allclose(together.scores[row], alone.scores[0], atol=1e-4)


@pytest.mark.parametrize("softmax", ["catalogue", "vocabulary"])
def test_padded_paths_find_what_the_tree_finds(softmax, monkeypatch):
    """Many users, who finish at different times, and so many passes that no pass holds all of them."""
    rng = np.random.default_rng(2)
    catalogue = catalogue_of([rng.integers(0, VOCABULARY, rng.integers(2, 7)).tolist() for _ in range(200)])
    starts = [rng.integers(0, VOCABULARY, rng.integers(1, 12)).astype(np.int32) for _ in range(17)]
    by_tree = search(MODELS["gemma2"], catalogue, starts, 5, softmax=softmax)
    monkeypatch.setattr("cftrec.decoding.tree._PASS_TOKENS", 40)
    by_paths = search(MODELS["gemma2"], catalogue, starts, 5, softmax=softmax, batching="padded")
    np.testing.assert_allclose(by_paths.scores, by_tree.scores, atol=TOLERANCE)
    assert by_paths.exact.all()
    assert (by_paths.items == by_tree.items).mean() > 0.9  # but for ties
