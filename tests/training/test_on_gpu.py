"""On a CUDA device: the same losses, gradients and lists as on the CPU. Skipped where there is none."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from step_oracle import relative_error
from test_step import GEMMA, make_collator

from cftrec.decoding import search
from cftrec.errors import InputError
from cftrec.evaluation import evaluate
from cftrec.forest.attention import FLEX
from cftrec.forest.backbone import choose_batching
from cftrec.recommender import Recommender
from cftrec.training import CFTTrainer, machine, train
from cftrec.training.step import CFTStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

KINDS = [
    ("llama", {"head_dim": 16}, {"prior_weight": 0.3}),
    ("qwen2", {"head_dim": 16}, {"softmax": "catalogue"}),
    ("mistral", {"head_dim": 16, "sliding_window": 9}, {}),
    ("gemma2", GEMMA | {"head_dim": 16}, {"detach": True}),
    ("gpt2", {"n_embd": 64}, {}),
]
OWN_MASKS = {"gpt2"}  # they look into the mask themselves, and cannot read FlexAttention's


def gradients_of(model, batch, method, autocast=False):
    """Return the loss and each parameter's gradient of a step, on the CPU."""
    step = CFTStep(model, 0.1, method.get("prior_weight", 0.0), method.get("detach", False)).train()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        loss = step(send_to_device(batch, model.device)).loss
    loss.backward()
    return loss.item(), {name: value.grad.cpu() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("attention", ["blocks", "flex"])
@pytest.mark.parametrize(("kind", "shape", "method"), KINDS)
def test_loss_and_gradients_are_those_of_the_cpu(dataset, assembled, tiny_model, kind, shape, method, attention):
    prompt, catalogue = assembled(prompt="plain")
    model = tiny_model(kind, 310, **shape)
    collator = make_collator(dataset, prompt, catalogue, pass_tokens=400, **method)
    there = copy.deepcopy(model).cuda()
    choose_batching(model, "forest")
    if attention == "flex" and kind in OWN_MASKS:
        with pytest.raises(InputError, match="cannot run on a prefix forest"):
            choose_batching(there, "forest", attention)
        attention = "auto"
    choose_batching(there, "forest", attention)
    for begin in (0, 9):  # other lengths, for which FlexAttention is not compiled again
        batch = collator(list(range(begin, begin + 9)))
        expected, found = gradients_of(model, batch, method), gradients_of(there, batch, method)
        assert abs(found[0] - expected[0]) < 1e-5 * abs(expected[0])
        largest = max(value.abs().max().item() for value in expected[1].values())
        for name, value in expected[1].items():
            assert (found[1][name] - value).abs().max() < 1e-4 * max(value.abs().max().item(), 1e-3 * largest), name
        model.zero_grad()
        there.zero_grad()


def test_padded_rows_on_a_gpu(dataset, assembled, tiny_model):
    prompt, catalogue = assembled(prompt="plain")
    model = tiny_model("bloom", 310, hidden_size=32, n_layer=2, n_head=4)
    collator = make_collator(dataset, prompt, catalogue, forest=False, pass_tokens=300)
    batch = collator(list(range(9)))
    expected, found = (gradients_of(copy.deepcopy(model).to(device), batch, {}) for device in ("cpu", "cuda"))
    assert abs(found[0] - expected[0]) < 1e-5 * abs(expected[0])
    assert all(relative_error(found[1][name], value) < 1e-3 for name, value in expected[1].items() if value.any())


def test_autocast_is_near(dataset, assembled, tiny_model):
    prompt, catalogue = assembled(prompt="plain")
    model = tiny_model("llama", 310, head_dim=16).cuda()
    batch = make_collator(dataset, prompt, catalogue)(list(range(9)))
    choose_batching(model, "forest")
    exact, _ = gradients_of(model, batch, {})
    model.zero_grad()
    near, gradients = gradients_of(model, batch, {}, autocast=True)
    assert abs(near - exact) < 0.05 * abs(exact)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in gradients.values())


@pytest.mark.parametrize("kind", ["llama", "gemma2", "bloom"])
@pytest.mark.parametrize("softmax", ["catalogue", "vocabulary"])
def test_the_search_finds_what_it_finds_on_the_cpu(dataset, assembled, tiny_model, kind, softmax):
    prompt, catalogue = assembled(prompt="plain")
    shape = {"llama": {}, "gemma2": GEMMA, "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4}}[kind]
    model = tiny_model(kind, 310, **shape).eval()
    prompts = [prompt.factual([catalogue.sequence(item) for item in items]) for items in ([0, 3], [5], [1, 2, 7])]
    way = {"softmax": softmax, "batching": "padded" if kind == "bloom" else "forest"}
    here, there = (search(model.to(device), catalogue, prompts, 5, **way) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there.scores, here.scores, atol=1e-3)
    assert there.exact.all()


def test_training_probes_and_measures_on_the_gpu(dataset, assembled, tiny_model, small_config, monkeypatch):
    """A model that comes on the CPU gets FlexAttention, shapes that cuDNN need not plan, and the GPU's layout."""
    monkeypatch.setattr(machine, "attention_call", lambda model, dtype: 7 if model.device.type == "cuda" else 5)
    torch.backends.cuda.enable_cudnn_sdp(True)
    prompt, catalogue = assembled(prompt="plain")
    config = small_config(use_cpu=False, attention_call=None)
    trainer = CFTTrainer(tiny_model("llama", 310, head_dim=16), config, dataset, prompt, catalogue)
    assert trainer.model.model.config._attn_implementation == FLEX
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert trainer.layout == (True, 16384, 7)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"bf16": True, "attention": "blocks"},
        {"lora_rank": 2, "gradient_checkpointing": True},
        {"softmax": "catalogue", "adaptive_temperature": True},
        {"batching": "padded"},
    ],
    ids=str,
)
def test_training_evaluation_and_answers(dataset, small_config, model_folder, tmp_path, more):
    folder = str(model_folder("llama", head_dim=16))
    dataset.save(tmp_path / "dataset")
    options = {"model": folder, "max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 0.01}
    runs = [
        train(tmp_path / "dataset", tmp_path / name, small_config(**options | more | {"use_cpu": name == "cpu"}))
        for name in ("gpu", "cpu")
    ]
    logs = [json.loads((run / "log.json").read_text())["log"] for run in runs]
    losses = [[line["loss"] for line in log if "loss" in line] for log in logs]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.05 if "bf16" in more else 2e-3)
    recommender = Recommender.from_pretrained(runs[0])
    assert recommender.model.device.type == "cuda"
    (answer,) = recommender.recommend([["Fargo"]], k=3)
    scores = recommender.score([["Fargo"]], [one.title for one in answer])[0]
    np.testing.assert_allclose([one.score for one in answer], scores, atol=1e-3)
    why = recommender.explain(["Fargo", "Alien"], "X").effect
    assert evaluate(recommender, dataset, out=runs[0]).metrics["HR@20"] == 1
    here = dataclasses.replace(recommender, model=recommender.model.cpu())
    assert here.explain(["Fargo", "Alien"], "X").effect == pytest.approx(why, abs=1e-3)
