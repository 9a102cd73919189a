"""Masks against loops: windows counted in depth, and the form each attention wants."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cftrec.forest import build_forest
from cftrec.forest.masks import attention_mask

sequence_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=8)


def ancestor_mask(end):
    """Who may attend to whom: j <= i < end[j]."""
    index = torch.arange(end.shape[1])
    return (index[None, :] <= index[:, None]) & (index[:, None] < end[:, None, :])


def tensors(sequences):
    forest = build_forest(sequences)
    depth, end = (torch.from_numpy(array)[None] for array in (forest.depth, forest.end))
    return forest, depth, end


def config(attention: str, **options):
    return SimpleNamespace(_attn_implementation=attention, **options)


@given(sequence_lists, st.integers(1, 5))
def test_a_window_counts_depth(sequences, window):
    forest, depth, end = tensors(sequences)
    mask = attention_mask(ancestor_mask(end), depth, depth, config("sdpa", sliding_window=window), torch.float32)
    assert mask.shape[1] == 1
    for path in forest.paths:
        for place, node in enumerate(path):
            seen = np.flatnonzero(mask[0, 0, node].numpy())
            assert seen.tolist() == sorted(path[max(0, place + 1 - window) : place + 1].tolist())


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, "full"),
        ({"sliding_window": None}, "full"),
        ({"sliding_window": 2}, "near"),
        ({"sliding_window": 2, "use_sliding_window": False}, "full"),
        ({"sliding_window": 2, "layer_types": ["full_attention", "full_attention"]}, "full"),
        ({"sliding_window": 2, "layer_types": ["sliding_attention"] * 2}, "near"),
        ({"sliding_window": 2, "layer_types": ["sliding_attention", "full_attention"]}, "both"),
        ({"sliding_window": None, "layer_types": ["full_attention"]}, "full"),
    ],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_each_kind_of_layer_gets_its_mask(options, kinds, attention):
    _, depth, end = tensors([[1, 2, 3, 4], [1, 2, 5]])
    allowed = ancestor_mask(end)
    near = allowed & (depth[:, :, None] - depth[:, None, :] < 2)
    mask = attention_mask(allowed, depth, depth, config(attention, **options), torch.float16)
    if kinds == "both":
        assert set(mask) == {"full_attention", "sliding_attention"}
        pairs = [(mask["full_attention"], allowed), (mask["sliding_attention"], near)]
    else:
        pairs = [(mask, near if kinds == "near" else allowed)]
    for found, expected in pairs:
        if attention == "eager":  # added to the scores, so it must be numbers
            assert found.dtype == torch.float16
            blocked = torch.full_like(found, torch.finfo(torch.float16).min)
            assert torch.equal(found, torch.where(expected[:, None], 0, blocked))
        else:
            assert torch.equal(found, expected[:, None])


def test_queries_may_be_fewer_than_keys():
    allowed = torch.ones(1, 2, 5, dtype=torch.bool)
    query, key = torch.tensor([[3, 4]]), torch.tensor([[0, 1, 2, 3, 4]])
    mask = attention_mask(allowed, query, key, config("sdpa", sliding_window=3), torch.float32)
    assert mask[0, 0].int().tolist() == [[0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
