"""What is measured is measured once, is what was measured, and a broken memory of it does no harm."""

import json

import pytest
import torch

from cftrec.forest import cost


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """Let blocks take 3 ms a call and 1 microsecond a pair; return the list of what was timed."""
    asked = []

    def seconds(device, shape, queries, keys, dtype):
        asked.append((shape, queries, keys))
        return 3e-3 + 1e-6 * queries * keys

    monkeypatch.setattr(cost, "_seconds", seconds)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return asked


def test_a_call_costs_what_the_fit_says_and_is_remembered(tiny_model, timed, tmp_path):
    model = tiny_model("llama")
    assert cost.attention_call(model, torch.float32) == 2**12  # 3 ms are 3,000 pairs
    assert [shape for shape, _, _ in timed] == [(4, 2, 8)] * 2
    (name,) = json.loads((tmp_path / "cftrec" / "attention_call.json").read_text())
    assert "4 heads, 2 key heads of 8, torch.float32" in name
    assert cost.attention_call(model, torch.float32) == 2**12
    assert len(timed) == 2
    cost.attention_call(model, torch.bfloat16)
    assert len(timed) == 2, "on a CPU blocks are computed in fp32"
    cost.attention_call(model, torch.float64)
    assert len(timed) == 4, "another dtype is another measurement"
    assert len(json.loads((tmp_path / "cftrec" / "attention_call.json").read_text())) == 2


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": "y"}'])
def test_a_broken_memory_is_written_anew(tiny_model, timed, tmp_path, text):
    (tmp_path / "cftrec").mkdir()
    (tmp_path / "cftrec" / "attention_call.json").write_text(text)
    assert cost.attention_call(tiny_model("gpt2"), torch.float32) == 2**12
    assert cost.attention_call(tiny_model("gpt2"), torch.float32) == 2**12
    assert len(timed) == 2


def test_a_home_that_cannot_be_written_is_no_error(tiny_model, timed, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cost.attention_call(tiny_model("llama"), torch.float32) == 2**12


def test_a_machine_without_a_home_measures_each_time(tiny_model, timed, monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(cost.Path, "home", nowhere)
    for times in (2, 4):
        assert cost.attention_call(tiny_model("llama"), torch.float32) == 2**12
        assert len(timed) == times


def test_a_real_measurement_ends_within_its_bounds(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    call = cost.attention_call(tiny_model("llama"), torch.float32)
    assert cost.LEAST_CALL <= call <= cost.MOST_CALL
    assert call & (call - 1) == 0


def test_activations_are_those_that_autograd_holds(tiny_model):
    """A linear model in its tokens: twice the layers hold about twice as much, checkpointing less."""
    shape = {"intermediate_size": 64, "hidden_size": 64, "head_dim": 16}
    small = cost.activation_bytes(tiny_model("llama", num_hidden_layers=2, **shape))
    large = cost.activation_bytes(tiny_model("llama", num_hidden_layers=4, **shape))
    assert 10 * 64 * 4 * 2 < small < 40 * 64 * 4 * 2, "some ten to forty vectors of 64 numbers a layer"
    assert 1.8 < large / small < 2.1
    checkpointed = tiny_model("llama", num_hidden_layers=4, **shape).train()
    checkpointed.activation_checkpointing_enable()
    assert cost.activation_bytes(checkpointed) < large / 4


def test_a_budget_bounds_the_pass(tiny_model):
    model = tiny_model("llama")
    each = cost.activation_bytes(model)
    assert cost.fitting_tokens(model, 2048, 1000 * each / 2**30) == 512
    assert cost.fitting_tokens(model, 2048, 1e6 * each / 2**30) == 2048
    assert cost.fitting_tokens(model, 2048, each / 2**30) == 64
    assert cost.fitting_tokens(model, 2048, None) == 2048


def test_a_model_that_holds_nothing_for_backward_has_the_longest_passes(tiny_model):
    """Where the head alone is trained, as by an adapter of its own."""
    model = tiny_model("llama")
    model.base_model.requires_grad_(False)
    assert cost.activation_bytes(model) == 0
    assert cost.fitting_tokens(model, 2048, 1.0) == 2048
