"""An interrupted training goes on to the same weights, whenever it stopped."""

import importlib.util

import pytest
from safetensors.torch import load_file
from small_options import ADAPTIVE, let_temperatures_move
from stopping import StopAtStep

from cftrec.artefacts import read_manifest
from cftrec.errors import InputError
from cftrec.training import machine, train
from cftrec.training.callbacks import last_complete_checkpoint


@pytest.fixture
def run(dataset, small_config, tmp_path):
    dataset.save(tmp_path / "dataset")
    options = {"save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 8, "num_train_epochs": 3}

    def make(name, stop=None, **more):
        callbacks = [StopAtStep(stop)] if stop else []
        return train(tmp_path / "dataset", tmp_path / name, small_config(**(options | more)), callbacks)

    return make


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def same(one, other):
    return all((value == other[name]).all() for name, value in one.items())


@pytest.mark.parametrize(
    ("stop", "method"), [(2, {}), (3, {}), (4, {}), (7, {}), (11, {}), (7, ADAPTIVE), (4, {"sample": 30})]
)
def test_continues_to_the_same_weights(run, tmp_path, monkeypatch, stop, method):
    """Before the first checkpoint, on one, after one, and in later epochs."""
    let_temperatures_move(monkeypatch)
    expected = weights(run("whole", **method))
    with pytest.raises(InterruptedError):
        run("cut", stop, **method)
    assert not (tmp_path / "cut").exists()
    got = weights(run("cut", **method))
    assert all((got[name] == expected[name]).all() for name in expected)
    assert {path.name for path in tmp_path.iterdir()} == {"dataset", "whole", "cut"}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_workers_change_nothing(run, tmp_path, accumulation):
    options = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 4}
    options |= {"eval_strategy": "steps", "eval_steps": 2}
    expected = weights(run("whole", **options))
    assert same(weights(run("workers", dataloader_num_workers=2, **options)), expected)
    with pytest.raises(InterruptedError):
        run("cut", 5, dataloader_num_workers=2, **options)
    assert same(weights(run("cut", dataloader_num_workers=1, **options)), expected)


def test_a_checkpoint_cut_while_written_is_passed_over(run, tmp_path):
    expected = weights(run("whole"))
    with pytest.raises(InterruptedError):
        run("cut", 8)
    folder = tmp_path / ".cut.checkpoints"
    newest = last_complete_checkpoint(folder)
    assert newest.name == "checkpoint-6"
    (newest / "complete").unlink()
    (newest / "optimizer.pt").write_bytes(b"half")
    got = weights(run("cut"))
    assert all((got[name] == expected[name]).all() for name in expected)


def test_what_was_measured_is_not_measured_again(run, tmp_path, monkeypatch):
    """Another measurement would cut other blocks, which round otherwise."""
    monkeypatch.setattr(machine, "attention_call", lambda *_: 300)
    with pytest.raises(InterruptedError):
        run("cut", 5, attention_call=None)
    monkeypatch.setattr(machine, "attention_call", lambda *_: 10**6)
    layout = read_manifest(run("cut", attention_call=None), "run")["layout"]
    assert layout == {"forest": True, "pass_tokens": 2048, "attention_call": 300}


def test_other_options_do_not_go_on(run):
    with pytest.raises(InterruptedError):
        run("cut", 5)
    with pytest.raises(InputError, match=r"other beta.*remove the folder"):
        run("cut", beta=0.5)


def test_best_model_and_early_stopping(run, dataset, tmp_path):
    """With a learning rate that only harms, the first evaluation stays the best, and patience ends the training."""
    stop = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_normal",
        "learning_rate": 3.0,
        "lr_scheduler_type": "constant",
        "patience": 1,
    }
    best = weights(run("stopped", num_train_epochs=9, **stop))
    two = weights(run("two", max_steps=2, **stop))
    assert all((best[name] == two[name]).all() for name in best)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_events_stay_with_the_run(run, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    made = run("watched", report_to="tensorboard", max_steps=2, logging_steps=1)
    assert list((made / "tensorboard").rglob("events.out.tfevents.*"))
