"""From a Dataset folder to a RUN folder, whole or not at all."""

import dataclasses
import json
import os
import socket
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cftrec.artefacts import read_manifest
from cftrec.errors import InputError
from cftrec.forest.backbone import choose_batching
from cftrec.recommender import Recommender
from cftrec.text import Catalogue, Prompt
from cftrec.training import CFTConfig, CFTTrainer, load_config, machine, train
from cftrec.training.bar import TrainingBar
from cftrec.training.run import assemble
from cftrec.training.trainer import Diverged
from small_shapes import HYBRIDS


@pytest.fixture(scope="module")
def log(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "dataset"
    dataset.save(folder)
    return folder


def test_a_run_holds_all_that_recommending_needs(log, dataset, small_config, tmp_path):
    config = small_config(max_steps=3, per_device_train_batch_size=8, logging_steps=1, max_tokens=60)
    out = train(log, tmp_path / "run", config)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    manifest = read_manifest(out, "run")
    assert (manifest["name"], manifest["steps"], manifest["samples"]) == ("run", 3, len(dataset.targets("train")))
    assert manifest["dataset"]["users"] == len(dataset.users)
    lines = json.loads((out / "log.json").read_text())["log"]
    assert [line["step"] for line in lines if "normal" in line] == [1, 2, 3]
    options = config.to_options() | {"batching": "forest"}
    assert load_config(out / "config.yaml").to_options() == options == manifest["config"]
    assert yaml.safe_load((out / "config.yaml").read_text()) == options
    assert manifest["batching"] == {"wanted": "auto", "used": "forest", "reason": ""}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out / "model"), AutoTokenizer.from_pretrained(out / "model")
    prompt = Prompt.from_dict(json.loads((out / "prompt.json").read_text()))
    catalogue = Catalogue.load(out)
    assert catalogue.titles == dataset.items["title"].to_list()
    assert catalogue.counts.tolist() == dataset.item_counts().tolist()
    assert tokenizer.decode(catalogue.sequence(0)) == "Star Wars (1977)\n"
    assert prompt.max_tokens == 60
    again, _, same, _ = assemble(dataset, dataclasses.replace(config))
    assert same == prompt
    CFTTrainer(again, dataclasses.replace(config), dataset, prompt, catalogue).train()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_folder_that_is_taken_is_left_alone(log, small_config, tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        train(log, tmp_path, small_config(max_steps=1))
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_trained(log, small_config, tmp_path):
    with pytest.raises(InputError, match="not UTF-8"):
        train(log, tmp_path / "tr\udce9", small_config(max_steps=1))
    assert not list(tmp_path.iterdir())


def on_one_rank(rank, folder, options, port):
    """Train a RUN as one of two processes."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    config = CFTConfig(**options, per_device_train_batch_size=4, ddp_backend="gloo", ddp_timeout=120)
    train(Path(folder, "log"), Path(folder, "two"), config, [TrainingBar("two")])
    assert read_manifest(Path(folder, "two"), "run")["steps"] == 3
    Path(folder, f"done{rank}").touch()  # and leave together, without torch's teardown of gloo
    while not all(Path(folder, f"done{other}").exists() for other in (0, 1)):
        time.sleep(0.05)
    os._exit(0)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_ranks_write_one_run(dataset, tmp_path, capfd):
    dataset.save(tmp_path / "log")
    options = {"nano_vocab_size": 300, "nano_hidden_size": 16, "nano_layers": 1, "nano_heads": 2, "use_cpu": True}
    options |= {"max_steps": 3, "save_steps": 1, "report_to": "none", "pass_tokens": 256, "attention_call": 1000}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(on_one_rank, (str(tmp_path), options, port), nprocs=2)
    assert {path.name for path in tmp_path.iterdir()} == {"log", "two", "done0", "done1"}
    assert capfd.readouterr().err.count("two: step 3/3") == 1
    one = train(tmp_path / "log", tmp_path / "one", CFTConfig(**options, per_device_train_batch_size=8))
    both, alone = (load_file(run / "model" / "model.safetensors") for run in (tmp_path / "two", one))
    assert all(torch.allclose(both[name], value, atol=1e-6) for name, value in alone.items())


def test_what_fails_leaves_nothing(log, small_config, model_folder, tmp_path):
    mamba = model_folder("mamba", hidden_size=32, num_hidden_layers=1, state_size=4)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    for options, message in [
        ({"model": str(mamba), "batching": "forest"}, "set batching=padded or choose another model"),
        ({"model": str(nothing)}, "no config.json"),
        ({"model": "gpt-five"}, "gpt-five"),
        ({"prompt": "poem"}, "poem"),
        ({"item_text": "{brand}"}, "brand"),
        ({"item_tokens": "ids"}, "ids"),
        ({"max_tokens": 9}, "too few: .* item 'i"),
        ({"nano_vocab_size": 7}, "option nano_vocab_size=7: must be"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            train(log, tmp_path / "run", small_config(max_steps=1, **options))
        assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["nothing"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 1e30}, r"training diverged by step [2468]: the loss is (nan|inf) \(normal"),
        ({"effect_weight": 1e38, "logging_steps": 1}, r"by step 1: the loss is inf \(normal [0-9.]+, effect [0-9.]+\)"),
        ({"learning_rate": 1e38, "max_steps": 1}, "diverged: its last step left no numbers in "),
    ],
)
def test_a_training_that_diverges_makes_no_run(log, small_config, tmp_path, options, message):
    small = {"max_steps": 9, "logging_steps": 2, "save_strategy": "steps", "save_steps": 1} | options
    with pytest.raises(Diverged, match=message):
        train(log, tmp_path / "run", small_config(**small))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"adam_beta1": 2}, "beta"),
        ({"adam_epsilon": -1}, "epsilon"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "num_decay_steps"),
        ({"lr_scheduler_kwargs": {"foo": 1}}, "foo"),
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 999}, "dataloader_drop_last"),
        (
            {"eval_strategy": "steps", "eval_steps": 200, "load_best_model_at_end": True, "save_strategy": "steps"},
            "no vali",
        ),
    ],
)
def test_options_that_no_step_could_take_are_refused_before_one(dataset, small_config, tmp_path, options, part):
    silent = dataclasses.replace(dataset, split=np.where(dataset.split == 1, 2, dataset.split))
    silent.save(tmp_path / "data")
    with pytest.raises(InputError, match=part) as error:
        train(tmp_path / "data", tmp_path / "run", small_config(max_steps=1, **options))
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(("times", "told"), [(12.3, True), (0.6, False)])
def test_a_processor_that_is_slow_in_bf16_is_told_of(log, small_config, tmp_path, capfd, monkeypatch, times, told):
    monkeypatch.setattr(machine, "bf16_over_fp32", lambda: times)
    config = small_config(max_steps=1, per_device_train_batch_size=8, bf16=True, decode_bf16=True)
    run = train(log, tmp_path / "run", config)
    Recommender.from_pretrained(run)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cftrec:")]
    options = ("bf16=true", f"{run}: decode_bf16=true") if told else ()
    asked = [f"cftrec: {option} slows this processor down: bf16 takes 12 times as long as fp32" for option in options]
    assert lines == asked
    wide = train(log, tmp_path / "wide", small_config(max_steps=1, per_device_train_batch_size=8))
    Recommender.from_pretrained(wide)
    assert "slows" not in capfd.readouterr().err


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_how_slow_bf16_is_is_measured_on_one_thread_and_all_threads_work_on(mode):
    threads = torch.get_num_threads()
    with mode():
        assert 0.05 < machine.bf16_over_fp32() < 500
    assert torch.get_num_threads() == threads


SHAPES = {
    "mamba": {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 4},
    "bloom": {"hidden_size": 32, "n_layer": 1, "n_head": 4},
    "falcon_h1": HYBRIDS["falcon_h1"],
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_model_that_takes_no_masks_trains_and_recommends(log, small_config, model_folder, tmp_path, capfd, kind):
    config = small_config(model=str(model_folder(kind, **SHAPES[kind])), max_steps=2, per_device_train_batch_size=8)
    out = train(log, tmp_path / "run", config)
    manifest = read_manifest(out, "run")
    reason = manifest["batching"]["reason"]
    assert manifest["batching"] == {"wanted": "auto", "used": "padded", "reason": reason}
    assert "ForCausalLM" in reason
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("cftrec:")]
    assert lines == [f"cftrec: batches are padded, since {reason}"]
    assert yaml.safe_load((out / "config.yaml").read_text())["batching"] == manifest["config"]["batching"] == "padded"

    recommender = Recommender.from_pretrained(out)
    histories = [["Fargo"], [], ["X", "Alien", "Aliens", "Fargo"]]
    titles = recommender.catalogue.titles
    scores = recommender.score(histories, titles)
    for answer, expected in zip(recommender.recommend(histories, k=5, keep_history=True), scores, strict=True):
        np.testing.assert_allclose([item.score for item in answer], np.sort(expected)[::-1][:5], atol=1e-4)
        found = [expected[titles.index(item.title)] for item in answer]
        np.testing.assert_allclose([item.score for item in answer], found, atol=1e-4)


def test_broken_model_files_are_refused(log, small_config, model_folder, tmp_path):
    folder = model_folder("llama")
    (folder / "model.safetensors").write_bytes(b"noise")
    with pytest.raises(InputError, match="not a causal language model"):
        train(log, tmp_path / "run", small_config(model=str(folder), max_steps=1))


def test_tokens_beyond_the_embedding_are_refused_where_they_are_used(dataset, small_config, model_folder):
    """Both numbers are told; a token that nobody writes, as of Gemma 3 1B, is in nobody's way."""
    folder = model_folder("llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(folder)
    assemble(dataset, small_config(model=str(folder)))
    tokenizer.add_tokens(["Fargo"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match=rf"has {rows + 2} tokens, of which {rows + 1} is .* only {rows} rows"):
        assemble(dataset, small_config(model=str(folder)))
    ids = dataclasses.replace(dataset, items=dataset.items.with_columns(ids=pl.lit("<image>")))
    with pytest.raises(InputError, match=f"of which {rows} is"):
        assemble(ids, small_config(model=str(folder), item_text="{item_id}", item_tokens="ids"))


def test_longrope_takes_a_bound_up_to_which_no_sequence_changes_another(dataset, small_config, model_folder):
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    shape = {"rope_parameters": rope, "original_max_position_embeddings": 48, "max_position_embeddings": 512}
    folder = str(model_folder("phi3", **shape))
    for bound in ({}, {"max_tokens": 49}):
        with pytest.raises(InputError, match=r"LongRoPE.*set max_tokens=48 or less"):
            assemble(dataset, small_config(model=folder, **bound))
    assert assemble(dataset, small_config(model=folder, max_tokens=48))[2].max_tokens == 48


def test_nothing_to_learn_from(dataset, small_config, tmp_path):
    silent = dataclasses.replace(dataset, split=dataset.split * 0 + 2)
    silent.save(tmp_path / "data")
    with pytest.raises(InputError, match="nothing to learn"):
        train(tmp_path / "data", tmp_path / "run", small_config(max_steps=1))


def test_prompts_end_where_a_models_positions_do(log, dataset, small_config, model_folder, tmp_path):
    """Without `max_tokens` the oldest items go once a model with learned positions has no more of them."""
    folder = model_folder("gpt2", n_positions=48)
    options = {
        "model": str(folder),
        "window": 14,
        "history_stride": 7,
        "max_steps": 2,
        "per_device_train_batch_size": 64,
    }
    out = train(log, tmp_path / "run", small_config(**options))
    prompt = Prompt.from_dict(json.loads((out / "prompt.json").read_text()))
    assert prompt.max_tokens == 48
    assert assemble(dataset, small_config(**options, max_tokens=40))[2].max_tokens == 40


def test_a_folder_of_another_kind_trains(dataset, small_config, model_folder):
    config = small_config(
        model=str(model_folder("mistral", sliding_window=8)), max_steps=1, per_device_train_batch_size=8
    )
    model, _, prompt, catalogue = assemble(dataset, config)
    choose_batching(model, "forest")
    before = model.state_dict()["lm_head.weight"].clone()
    CFTTrainer(model, config, dataset, prompt, catalogue).train()
    assert not torch.equal(before, model.state_dict()["lm_head.weight"])


def test_a_run_with_adapters_holds_them_and_the_merged_model(log, small_config, model_folder, tmp_path):
    folder = model_folder("llama", tie_word_embeddings=True)
    options = {"model": str(folder), "max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 0.1}
    out = train(log, tmp_path / "run", small_config(lora_rank=2, **options))
    base, merged = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (folder, out / "model"))
    manifest = read_manifest(out, "run")
    assert manifest["parameters"] == sum(parameter.numel() for parameter in base.parameters())
    assert manifest["trained_parameters"] == 2 * 2 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
    assert {path.name for path in (out / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    tokens = torch.arange(9)[None]
    before = base(input_ids=tokens).logits
    adapted = PeftModel.from_pretrained(base, out / "adapter").eval()
    with torch.no_grad():
        found, expected = (model(input_ids=tokens).logits for model in (merged, adapted))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (expected - before).abs().max() > 1e-2
    assert torch.equal(merged.lm_head.weight, base.lm_head.weight)


def test_adapters_that_cannot_be_are_refused(log, small_config, model_folder, tmp_path):
    tied, free = model_folder("llama", tie_word_embeddings=True), model_folder("llama")
    for options, message in [
        ({"lora_target": "q_proj,bogus"}, "'bogus'; choose all-linear, or some of down_proj"),
        ({"lora_target": ""}, "lora_target"),
        ({"lora_target": "lm_head", "model": str(tied)}, "tied"),
        ({"lora_target": "lm_head", "lora_dropout": 0.1}, "set the dropout to 0"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            train(log, tmp_path / "run", small_config(**{"model": str(free), "lora_rank": 2} | options))
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_given_tokens_are_the_catalogue(dataset, small_config):
    import polars as pl

    ids = [f"<a_{n % 3}> <b_{n}>" for n in range(dataset.items.height)]
    table = dataclasses.replace(dataset, items=dataset.items.with_columns(pl.Series("ids", ids)))
    config = small_config(item_tokens="ids", max_steps=1, softmax="catalogue", per_device_train_batch_size=8)
    model, tokenizer, prompt, catalogue = assemble(table, config)
    assert tokenizer.convert_ids_to_tokens(catalogue.sequence(4))[:2] == ["<a_1>", "<b_4>"]
    assert model.config.vocab_size == len(tokenizer)
    CFTTrainer(model, config, table, prompt, catalogue).train()
