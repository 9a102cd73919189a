"""Adapters beside weights in 4 bits: what is held how, what is trained, and the RUN without a trace of it.

The arithmetic runs wherever bitsandbytes does, a CPU included; training through the option itself takes CUDA.
"""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from stopping import StopAtStep
from transformers import AutoModelForCausalLM

from cftrec.errors import InputError
from cftrec.export import export
from cftrec.forest.backbone import head_of
from cftrec.recommender import Recommender
from cftrec.training import train
from cftrec.training.models import check_4bit, nf4
from cftrec.training.run import assemble

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


@pytest.fixture(params=DEVICES)
def place(request, monkeypatch):
    """Options of a device; on a CPU the refusal is out of the way."""
    if request.param == "cpu":
        monkeypatch.setattr("cftrec.training.models.check_4bit", lambda config: None)
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return {"use_cpu": request.param == "cpu"}


@pytest.fixture
def folder(dataset, small_config, tiny_model, tmp_path):
    """Make a folder of a small model with a tokenizer that knows the catalogue."""

    def make(kind="llama", **shape):
        _, tokenizer, _, _ = assemble(dataset, small_config())
        made = tmp_path / kind
        shape = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16} | shape
        tiny_model(kind, len(tokenizer), **shape).save_pretrained(made)
        tokenizer.save_pretrained(made)
        return str(made)

    return make


OPTIONS = {"lora_rank": 2, "load_in_4bit": True, "per_device_train_batch_size": 8, "learning_rate": 0.03}


@needs_bitsandbytes
@pytest.mark.parametrize("tied", [True, False])
def test_linear_layers_have_4_bits_and_the_head_is_whole(place, dataset, small_config, folder, tied):
    config = small_config(model=folder(tie_word_embeddings=tied), **OPTIONS | place)
    model = assemble(dataset, config)[0]
    kinds = {name: type(value).__name__ for name, value in model.named_parameters() if "lora_" not in name}
    assert all((kind == "Params4bit") == ("_proj" in name) for name, kind in kinds.items())
    assert type(head_of(model).weight) is torch.nn.Parameter
    others = [value for value in model.parameters() if type(value).__name__ != "Params4bit"]
    assert {value.dtype for value in others} == {torch.float32}
    assert all(value.requires_grad == ("lora_" in name) for name, value in model.named_parameters())


@needs_bitsandbytes
@pytest.mark.parametrize("more", [{}, {"bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_the_run_holds_the_model_that_was_trained(place, dataset, small_config, folder, tmp_path, more):
    """Merged without rounding to 4 bits again, and a plain folder."""
    base = folder()
    dataset.save(tmp_path / "dataset")
    out = train(tmp_path / "dataset", tmp_path / "run", small_config(model=base, max_steps=4, **OPTIONS | place | more))
    assert "quantization_config" not in json.loads((out / "model" / "config.json").read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["batching"]["used"] == "forest"
    whole = AutoModelForCausalLM.from_pretrained(base)
    assert manifest["parameters"] == sum(value.numel() for value in whole.parameters())

    # In training mode: in eval mode bitsandbytes computes in bf16 on some CPUs.
    quantised = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=nf4()).train()
    tokens = torch.arange(9)[None].to(quantised.device)
    with torch.no_grad():
        untrained = quantised(input_ids=tokens).logits
        trained = PeftModel.from_pretrained(quantised, out / "adapter").train()(input_ids=tokens).logits
        merged = AutoModelForCausalLM.from_pretrained(out / "model").to(quantised.device)
        found = merged(input_ids=tokens).logits
    assert {value.dtype for value in merged.parameters()} == {torch.float32}
    torch.testing.assert_close(found, trained, rtol=1e-4, atol=1e-4)
    assert (trained - untrained).abs().max() > 1e-2
    assert (untrained - whole.to(quantised.device)(input_ids=tokens).logits).abs().max() > 1e-2
    (answer,) = Recommender.from_pretrained(out).recommend([["Fargo"]], k=3)
    assert len(answer) == 3


@needs_bitsandbytes
def test_an_interruption_changes_nothing(place, dataset, small_config, folder, tmp_path):
    base = folder()
    dataset.save(tmp_path / "dataset")
    options = {"model": base, "max_steps": 5, "save_strategy": "steps", "save_steps": 2}

    def run(name, *callbacks):
        return train(tmp_path / "dataset", tmp_path / name, small_config(**options | OPTIONS | place), list(callbacks))

    whole = load_file(run("whole") / "model" / "model.safetensors")
    with pytest.raises(InterruptedError):
        run("cut", StopAtStep(3))
    cut = load_file(run("cut") / "model" / "model.safetensors")
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-5, atol=1e-6)


@needs_bitsandbytes
def test_the_card_tells(place, dataset, small_config, folder, tmp_path):
    dataset.save(tmp_path / "dataset")
    out = train(tmp_path / "dataset", tmp_path / "run", small_config(model=folder(), max_steps=1, **OPTIONS | place))
    assert "4 bits (NF4" in (export(out, merge=True) / "README.md").read_text()


@needs_bitsandbytes
def test_transposed_layers_are_refused(place, dataset, small_config, folder):
    with pytest.raises(InputError, match="GPT2LMHeadModel holds its linear layers transposed") as error:
        assemble(dataset, small_config(model=folder("gpt2"), **OPTIONS | place))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cuda", "use_cpu", "installed", "message"),
    [
        (False, False, True, "needs a CUDA device.*leave it out"),
        (True, True, True, "needs a CUDA device"),
        (True, False, False, "pip install bitsandbytes"),
        (True, False, True, None),
    ],
)
def test_where_it_cannot_be_it_is_refused(monkeypatch, cuda, use_cpu, installed, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if installed else None)
    config = SimpleNamespace(use_cpu=use_cpu)
    if message is None:
        check_4bit(config)
        return
    with pytest.raises(InputError, match=message) as error:
        check_4bit(config)
    assert "\n" not in str(error.value)
