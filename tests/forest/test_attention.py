"""Attention within forests against a dense mask: values, every gradient, windows, softcaps, shared key heads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cftrec.forest import build_forest
from cftrec.forest.attention import FLEX, Blocks, _attention, attend, forest_masks
from cftrec.forest.rows import cut_blocks

sequence_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=1, max_size=12)


def tensors(forest, call):
    cuts = cut_blocks(forest.depth, call)
    return [torch.from_numpy(array) for array in (forest.depth, forest.end, cuts)]


def dense_mask(forest, window):
    """Each node sees its own path, by a loop."""
    mask = torch.zeros(len(forest.tokens), len(forest.tokens), dtype=torch.bool)
    for path in forest.paths:
        for place, node in enumerate(path):
            mask[node, path[max(0, place + 1 - (window or place + 1)) : place + 1]] = True
    return mask


@given(sequence_lists, st.sampled_from([0, 200, 10**6]), st.sampled_from([0, 1, 3, 100]))
@settings(max_examples=60)
def test_blocks_let_a_node_see_its_path_and_nothing_else(sequences, call, window):
    forest = build_forest(sequences)
    blocks = Blocks(*tensors(forest, call))
    expected = dense_mask(forest, window)
    seen = torch.zeros_like(expected)
    begin = 0
    for allowed, nodes in zip(blocks.allowed(window), blocks.index.split(blocks.keys), strict=True):
        seen[begin : begin + len(allowed)][:, nodes] = allowed
        assert len(set(nodes.tolist())) == len(nodes)
        begin += len(allowed)
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("call", [0, 300, 10**6])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("window", [0, 7])
def test_values_and_gradients_are_those_of_dense_attention(call, softcap, heads, key_heads, window):
    rng = np.random.default_rng(call % 97)
    trunk = rng.integers(0, 9, 50)
    forest = build_forest([np.concatenate([trunk[: rng.integers(1, 50)], rng.integers(0, 9, 30)]) for _ in range(9)])
    torch.manual_seed(0)
    length = len(forest.tokens)
    shapes = [(1, heads, length, 5), (1, key_heads, length, 5), (1, key_heads, length, 5)]
    states = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    blocks = Blocks(*tensors(forest, call))
    mask = torch.full((1, 1, 1, 1), window)
    mixed, _ = _attention(torch.nn.Module(), *states, mask, scaling=0.3, softcap=softcap, forest=blocks)
    query, key, value = states
    key, value = (part.repeat_interleave(heads // key_heads, 1) for part in (key, value))
    scores = 0.3 * query @ key.transpose(2, 3)
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    expected = scores.masked_fill(~dense_mask(forest, window), -torch.inf).softmax(3) @ value
    torch.testing.assert_close(mixed, expected.transpose(1, 2))
    slope = torch.randn_like(mixed)
    found = torch.autograd.grad((mixed * slope).sum(), states)
    for mine, theirs in zip(found, torch.autograd.grad((expected.transpose(1, 2) * slope).sum(), states), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_without_a_forest_it_is_plain_causal_attention(softcap):
    torch.manual_seed(1)
    query, key, value = (torch.randn(2, 3, 6, 4, dtype=torch.float64) for _ in range(3))
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    mixed, _ = _attention(torch.nn.Module(), query, key, value, None, softcap=softcap)
    expected = attend(query, key, value, causal, softcap=softcap).transpose(1, 2)
    torch.testing.assert_close(mixed, expected)
    last, _ = _attention(torch.nn.Module(), query[:, :, -1:], key, value, None, softcap=softcap)  # beside a cache
    torch.testing.assert_close(last, expected[:, -1:])


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_on_a_cpu_narrow_states_attend_in_fp32(softcap):
    """Under autocast, too; only states, result and gradients are rounded."""
    generator = torch.Generator().manual_seed(3)
    forest = build_forest([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 8, 9, 4, 4], [1, 5], [7, 8, 9, 9, 9, 1]])
    blocks, window = Blocks(*tensors(forest, 0)), torch.zeros(1, 1, 1, 1)
    narrow = [
        torch.randn(1, heads, len(forest.tokens), 8, generator=generator).bfloat16().requires_grad_()
        for heads in (4, 2, 2)
    ]
    wide = [states.detach().float().requires_grad_() for states in narrow]
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = _attention(torch.nn.Module(), *narrow, window, softcap=softcap, forest=blocks)
    expected, _ = _attention(torch.nn.Module(), *wide, window, softcap=softcap, forest=blocks)
    assert found.dtype == torch.bfloat16
    assert (found == expected.bfloat16()).all()
    slope = torch.randn(found.shape, generator=generator).bfloat16()
    gradients = torch.autograd.grad(found, narrow, slope)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, wide, slope.float()), strict=True):
        assert (mine == theirs.bfloat16()).all()


def test_dropout_falls_on_the_weights():
    query, key, value = (torch.randn(1, 2, 4, 3) for _ in range(3))
    allowed = torch.ones(4, 4, dtype=torch.bool)
    assert not attend(query, key, value, allowed, dropout=1.0, softcap=2.0).any()
    assert attend(query, key, value, allowed, dropout=0.0, softcap=2.0).any()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("llama", {}), ("mistral", {"sliding_window": 4}), ("gemma2", {"sliding_window": 4, "query_pre_attn_scalar": 8})],
)
def test_flex_attention_computes_the_same(tiny_model, monkeypatch, kind, options):
    """Forward alone, and uncompiled: that is what FlexAttention has on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    from cftrec.forest import attention
    from cftrec.forest.backbone import choose_batching, forest_hidden

    monkeypatch.setattr(attention, "_compiled_flex", lambda: flex_attention)
    model = tiny_model(kind, **options).eval()
    choose_batching(model, "forest")
    forest = build_forest([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 8, 9, 4, 4], [1, 5], [7, 8, 9, 9, 9, 1]])
    arrays = tensors(forest, 0)
    with torch.no_grad():
        tokens = torch.from_numpy(forest.tokens)[None]
        blocks = forest_hidden(model, tokens, *arrays)
        model.set_attn_implementation(FLEX)
        torch.testing.assert_close(forest_hidden(model, tokens, *arrays), blocks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention trains on CUDA only, and there is none")
@pytest.mark.parametrize(
    ("kind", "options"),
    [("llama", {}), ("mistral", {"sliding_window": 4}), ("gemma2", {"sliding_window": 4, "query_pre_attn_scalar": 8})],
)
def test_flex_attention_on_a_gpu_passes_the_probe(tiny_model, kind, options):
    from cftrec.forest.backbone import forest_objection

    assert forest_objection(tiny_model(kind, head_dim=16, **options).cuda(), FLEX) == ""


def test_an_attention_that_knows_no_forests_is_refused(tiny_model):
    forest = build_forest([[1, 2], [1, 3]])
    with pytest.raises(ValueError, match="knows no forests"):
        forest_masks(tiny_model("llama").config, *tensors(forest, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_a_query_without_a_key_spoils_nothing(dtype, softcap):
    """Padding behind a short sequence sees no key where a window has moved past it; 0 times NaN would be NaN."""
    query = torch.randn(1, 4, 3, 8, dtype=dtype, requires_grad=True)
    key, value = torch.randn(2, 1, 2, 5, 8, dtype=dtype)
    allowed = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    mixed = attend(query, key, value, allowed, softcap=softcap)
    (gradient,) = torch.autograd.grad(mixed.float().sum(), query)
    assert mixed.isfinite().all()
    assert gradient.isfinite().all()
    without = attend(query[:, :, :2], key, value, allowed[:2], softcap=softcap)
    torch.testing.assert_close(mixed[:, :, :2], without)
