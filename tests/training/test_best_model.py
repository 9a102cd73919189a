"""The best model by a validation metric: what is measured, saved, waited for and gone on with."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file
from stopping import StopAtStep
from transformers import TrainerCallback

from cftrec.data import Dataset
from cftrec.errors import InputError
from cftrec.evaluation import evaluate
from cftrec.evaluation.validation import ranking_metrics
from cftrec.recommender import Recommender
from cftrec.training import CFTTrainer, train
from cftrec.training.lora import add_lora

BEST = {
    "per_device_train_batch_size": 8,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 4,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_ndcg@10",
    "learning_rate": 3e-2,
}


class Played:
    """A measure that gives known values, one an evaluation, whatever the model."""

    def __init__(self, *values):
        self.values = values

    def __call__(self, trainer, positions):
        assert not trainer.model.training
        at = trainer.state.global_step // BEST["eval_steps"] - 1
        return {"ndcg@10": np.full(len(positions), self.values[at])}


class StopAfter(TrainerCallback):
    """Break off once all that belongs to a step is done, its checkpoint whole."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise InterruptedError

    on_epoch_end = on_step_begin


@pytest.fixture
def run(dataset, small_config, tmp_path):
    dataset.save(tmp_path / "dataset")

    def make(name, measure=ranking_metrics, callbacks=(), **options):
        config = small_config(**BEST | options)
        return train(tmp_path / "dataset", tmp_path / name, config, list(callbacks), measure)

    return make


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def same(one, other):
    return all((value == other[name]).all() for name, value in one.items())


def measured(run, name="eval_ndcg@10"):
    return {line["step"]: line[name] for line in json.loads((run / "log.json").read_text())["log"] if name in line}


def steps_of(run):
    return json.loads((run / "manifest.json").read_text())["steps"]


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"batching": "padded", "learning_rate": 0.3}])
def test_it_is_what_the_finished_run_scores(run, dataset, options):
    made = run("run", max_steps=12, **options)
    values = measured(made)
    assert list(values) == [2, 4, 6, 8, 10, 12]
    found = evaluate(Recommender.from_pretrained(made), dataset, "validation").metrics["NDCG@10"]
    assert found == max(values.values())
    assert len(set(values.values())) > 1


def test_adapters_take_part(dataset, assembled, tiny_model, small_config):
    """The trainer's model ranks as the merged one does, and otherwise than without its adapters."""
    prompt, catalogue = assembled()
    config = small_config(**BEST, max_steps=6, model="a folder", lora_rank=2)
    model = add_lora(tiny_model("llama", 310), config)
    trainer = CFTTrainer(model, config, dataset, prompt, catalogue, measure=ranking_metrics)
    trainer.train()
    trainer.model.train()
    found = trainer.evaluate()["eval_ndcg@10"]
    assert trainer.model.training
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    positions = dataset.targets("validation")
    trainer.model.eval()
    with model.disable_adapter():
        without = ranking_metrics(trainer, positions)["ndcg@10"]
    model.merge_adapter()
    merged = ranking_metrics(trainer, positions)["ndcg@10"]
    assert found == pytest.approx(merged.mean(), rel=1e-12)
    assert (without != merged).any()
    assert {name: len(values) for name, values in ranking_metrics(trainer, positions[:0]).items()} == {"ndcg@10": 0}


def test_the_best_model_is_kept_where_no_checkpoint_fell_due(run):
    constant = {"lr_scheduler_type": "constant"}
    best = run("best", Played(0.2, 0.5, 0.9, 0.4), max_steps=8, **constant)
    assert measured(best) == {2: 0.2, 4: 0.5, 6: 0.9, 8: 0.4}
    assert same(weights(best), weights(run("six", Played(0.2, 0.5, 0.9), max_steps=6, **constant)))
    assert not same(weights(best), weights(run("four", Played(0.2, 0.5), max_steps=4, **constant)))


def test_patience_counts_evaluations_without_a_better(run):
    values = (0.2, 0.5, 0.5, 0.4, 0.9, 0.9)
    assert steps_of(run("two", Played(*values), patience=2, max_steps=12)) == 8
    assert steps_of(run("three", Played(*values), patience=3, max_steps=12)) == 12
    assert steps_of(run("rising", Played(*range(6)), patience=1, max_steps=12)) == 12


@pytest.mark.parametrize(
    "stop", [StopAtStep(3), StopAtStep(5), StopAtStep(9), StopAfter(4), StopAfter(8)], ids=lambda s: repr(s.step)
)
def test_an_interrupted_training_waits_no_longer(run, stop):
    """Patience counts on from the checkpoint, and a checkpoint at which it ended is the end."""
    values = (0.2, 0.5, 0.4, 0.4, 0.4, 0.4)
    options = {"patience": 3, "max_steps": 12}
    whole = run("whole", Played(*values), **options)
    assert steps_of(whole) == 10
    with pytest.raises(InterruptedError):
        run("cut", Played(*values), [stop], **options)
    cut = run("cut", Played(*values), **options)
    assert same(weights(cut), weights(whole))
    assert (steps_of(cut), measured(cut)) == (10, measured(whole))


@pytest.mark.parametrize("stop", [StopAtStep(7), StopAfter(8)], ids=lambda s: repr(s.step))
def test_the_best_model_moves_with_the_folder(run, tmp_path, stop):
    values, options = (0.2, 0.9, 0.4, 0.3), {"max_steps": 8, "learning_rate": 0.3}
    whole = run("whole", Played(*values), **options)
    (tmp_path / "here").mkdir()
    with pytest.raises(InterruptedError):
        run("here/cut", Played(*values), [stop], **options)
    (tmp_path / "here").rename(tmp_path / "there")
    assert same(weights(run("there/cut", Played(*values), **options)), weights(whole))


def test_the_checkpoint_at_which_patience_ended_is_the_end(run):
    values = (0.2, 0.5, 0.4, 0.4, 0.9, 0.9)
    options = {"patience": 2, "max_steps": 12, "eval_steps": 2, "save_steps": 2}
    whole = run("whole", Played(*values), **options)
    with pytest.raises(InterruptedError):
        run("cut", Played(*values), [StopAfter(8)], **options)
    cut = run("cut", Played(*values), **options)
    assert same(weights(cut), weights(whole))
    assert steps_of(cut) == steps_of(whole) == 8


def test_the_last_checkpoint_is_the_end(run):
    options = {"max_steps": 8, "load_best_model_at_end": False, "metric_for_best_model": "eval_loss"}
    whole = run("whole", None, **options)
    with pytest.raises(InterruptedError):
        run("cut", None, [StopAfter(8)], **options)
    cut = run("cut", None, **options)
    assert same(weights(cut), weights(whole))
    assert steps_of(cut) == 8


class StopInEvaluation(Played):
    """Break off while a step is measured."""

    def __init__(self, step):
        self.step = step

    def __call__(self, trainer, positions):
        if trainer.state.global_step == self.step:
            raise InterruptedError
        return {"ndcg@10": np.full(len(positions), 1.0)}


@pytest.mark.parametrize(("steps", "stop"), [(9, 3), (9, 6), (9, 9), (8, 8)])
def test_a_kill_in_an_epochs_evaluation_leaves_none_out(run, steps, stop):
    """With a checkpoint at every step, an epoch's last and a training's last in the middle of one among them."""
    options = {"eval_strategy": "epoch", "save_steps": 1, "load_best_model_at_end": False, "sample": 24}
    options |= {"max_steps": steps, "metric_for_best_model": None}
    whole = run("whole", StopInEvaluation(0), **options)
    with pytest.raises(InterruptedError):
        run("cut", StopInEvaluation(stop), **options)
    cut = run("cut", StopInEvaluation(0), **options)
    assert list(measured(whole)) == [3, 6, steps]
    assert measured(cut) == measured(whole)
    assert same(weights(cut), weights(whole))


def test_with_the_search_an_interruption_changes_nothing(run):
    whole = run("whole", max_steps=12, patience=4)
    with pytest.raises(InterruptedError):
        run("cut", callbacks=[StopAtStep(7)], max_steps=12, patience=4)
    cut = run("cut", max_steps=12, patience=4)
    assert same(weights(cut), weights(whole))
    assert measured(cut) == measured(whole)


@pytest.mark.parametrize("metric", ["eval_normal", "eval_effect", "eval_prior"])
def test_losses_are_better_low(run, metric):
    options = {"eval_steps": 1, "save_steps": 1, "learning_rate": 0.3, "lr_scheduler_type": "constant"}
    options |= {"metric_for_best_model": metric, "prior_weight": 0.1}
    made = run("run", None, max_steps=6, **options)
    values = measured(made, metric)
    best = min(values, key=values.get)
    assert best != max(values, key=values.get)
    alone = run("alone", None, max_steps=best, **options | {"load_best_model_at_end": False})
    assert same(weights(alone), weights(made))


def test_ranking_that_is_not_possible_is_refused(run, small_config, tmp_path):
    with pytest.raises(InputError, match=r"eval_ndcg@10: ranking takes a search.*ranking_metrics") as error:
        run("run", None, max_steps=2)
    assert "\n" not in str(error.value)
    data = Dataset.load(tmp_path / "dataset")
    replace(data, split=np.where(data.split == 1, 2, data.split)).save(tmp_path / "silent")
    with pytest.raises(InputError, match="no validation target"):
        train(tmp_path / "silent", tmp_path / "run", small_config(**BEST, max_steps=2), measure=ranking_metrics)
    for options in (
        {"metric_for_best_model": "eval_prior"},
        {"metric_for_best_model": "eval_effect", "effect_weight": 0},
    ):
        with pytest.raises(InputError, match="is always 0 by the weights of the loss"):
            run("run", None, max_steps=2, **options)
    assert not (tmp_path / "run").exists()
