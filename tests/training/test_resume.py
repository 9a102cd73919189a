"""An interrupted training goes on to the same weights, whenever it stopped."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from small_options import ADAPTIVE, let_temperatures_move
from stopping import StopAtStep

from cftrec.artefacts import held, read_json, read_manifest, write_json
from cftrec.errors import InputError
from cftrec.training import callbacks, machine, train
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
    ("stop", "method"),
    [
        *[(stop, {}) for stop in (2, 3, 4, 7, 11)],
        (7, ADAPTIVE),
        (4, {"sample": 30}),
        (7, {"effect_schedule": "falling", "effect_weight": 0.5}),
        (4, {"nano_dropout": 0.3}),
    ],
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


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("best", [False, True])
def test_a_kill_while_old_checkpoints_are_removed_leaves_a_whole_one(run, tmp_path, monkeypatch, limit, best):
    options = {"save_total_limit": limit}
    if best:  # the first evaluation stays the best, so that its checkpoint stays
        options |= {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True, "learning_rate": 0.5}
        options |= {"metric_for_best_model": "eval_normal", "lr_scheduler_type": "constant"}
    expected = weights(run("whole", **options))
    remove = shutil.rmtree

    def killed(folder, **more):
        if not Path(folder).name.startswith("checkpoint-"):
            return remove(folder, **more)
        for file in sorted(Path(folder).iterdir())[::2]:
            file.unlink()
        raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(callbacks.shutil, "rmtree", killed)
        run("cut", **options)
    assert last_complete_checkpoint(tmp_path / ".cut.checkpoints").name == f"checkpoint-{3 * (limit + 1)}"
    made = run("cut", **options)
    assert same(weights(made), expected)
    assert read_manifest(made, "run")["resumed_from_step"] == 3 * (limit + 1)


def test_the_log_goes_on_with_means_of_its_own_steps(run, tmp_path):
    options = {"logging_steps": 1, "effect_weight": 0.0, "num_train_epochs": 1}
    with pytest.raises(InterruptedError):
        run("cut", 5, **options)
    for name in ("cut", "whole"):
        lines = [line for line in read_json(run(name, **options) / "log.json")["log"] if "normal" in line]
        assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
        for line in lines:
            assert line["normal"] == pytest.approx(line["loss"], rel=1e-4)
        mean = sum(line["loss"] for line in lines) / len(lines)
        assert read_json(tmp_path / name / "log.json")["log"][-1]["train_loss"] == pytest.approx(mean, rel=1e-9)


def test_what_a_kill_left_of_a_finished_training_is_removed(run, tmp_path):
    run("whole", max_steps=1)
    left = tmp_path / ".whole.checkpoints"
    (left / "checkpoint-1").mkdir(parents=True)
    with held(left), pytest.raises(InputError, match="another command is changing it"):
        run("whole", max_steps=1)
    with pytest.raises(InputError, match="not empty"):
        run("whole", max_steps=1)
    assert {path.name for path in tmp_path.iterdir()} == {"dataset", "whole"}


ORPHAN = """
import multiprocessing, os, time
from cftrec.training.machine import send_by_value
def work(out):
    send_by_value(0)
    out.send(os.getpid())
    time.sleep(600)
into, out = multiprocessing.Pipe(False)
multiprocessing.get_context("fork").Process(target=work, args=(out,)).start()
print(into.recv(), flush=True)
time.sleep(600)
"""


def test_a_worker_ends_with_its_training():
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as training:
        worker = psutil.Process(int(training.stdout.readline()))
        assert worker.is_running()
        training.kill()
    assert not psutil.wait_procs([worker], timeout=30)[1]


def test_other_files_do_not_go_on(run, tmp_path, model_folder):
    prompt, model = tmp_path / "prompt.txt", model_folder("llama")
    prompt.write_text("{history}")
    options = {"prompt": str(prompt), "model": str(model), "learning_rate": 0.01}
    with pytest.raises(InterruptedError):
        run("cut", 5, **options)
    prompt.write_text("Seen: {history}")
    with pytest.raises(InputError, match=r"with other content of .*prompt\.txt"):
        run("cut", **options)
    prompt.write_text("{history}")
    config = model / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(InputError, match=r"with other content of .*config\.json"):
        run("cut", **options)


def test_a_seed_of_0_is_a_seed(run):
    with pytest.raises(InterruptedError):
        run("cut", 5)
    with pytest.raises(InputError, match="other data_seed"):
        run("cut", data_seed=0)


def test_another_number_of_processes_does_not_go_on(run, tmp_path):
    expected = weights(run("whole"))
    with pytest.raises(InterruptedError):
        run("cut", 5)
    mark = tmp_path / ".cut.checkpoints" / "training.json"
    known = read_json(mark)
    assert known.pop("ranks") == 1
    write_json(mark, known | {"ranks": 2})
    with pytest.raises(InputError, match=r"with other number of processes \(2, not 1\); give the same"):
        run("cut")
    write_json(mark, known)  # as written before, when nothing told
    assert same(weights(run("cut")), expected)


def test_an_option_that_is_left_out_later_is_another(run):
    with pytest.raises(InterruptedError):
        run("cut", 5, weight_decay=0.1)
    with pytest.raises(InputError, match="other weight_decay;"):
        run("cut")


def test_one_call_at_a_time_trains_a_run(run, tmp_path):
    with pytest.raises(InterruptedError):
        run("cut", 5)
    with held(tmp_path / ".cut.checkpoints"), pytest.raises(InputError, match="another command is changing it"):
        run("cut")
    left, others = tmp_path / ".cut.a_1b2c3d.partial", tmp_path / ".cut.x.a_1b2c3d.partial"
    left.mkdir()
    others.mkdir()
    assert read_manifest(run("cut"), "run")["resumed_from_step"] == 3
    assert not left.exists()
    assert others.exists()


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
