"""A sweep: every cell's value as its own training gives it, hopeless cells stopped, interrupted sweeps gone on with."""

import dataclasses
import json

import numpy as np
import pytest
from tests.training.small_options import SMALL
from transformers import TrainerCallback

from cftrec.artefacts import held, read_json
from cftrec.cli import main
from cftrec.data import SPLITS, Dataset
from cftrec.data.world import WorldOptions, make_world
from cftrec.errors import InputError
from cftrec.evaluation import sweep as module
from cftrec.evaluation.space import read_space
from cftrec.evaluation.sweep import sweep
from cftrec.training import load_config, train

pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
OPTIONS = SMALL | {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "eval_steps": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "world"
    make_world(WorldOptions(items=50, users=20, length=6)).save(folder)
    return folder


def value_of(data, out, options, metric="eval_normal"):
    """Return the best validation loss of a training by itself."""
    more = {"eval_strategy": "steps", "load_best_model_at_end": True, "metric_for_best_model": metric}
    run = train(data, out, load_config(None, OPTIONS | more | options))
    return min(line[metric] for line in json.loads((run / "log.json").read_text())["log"] if metric in line)


def test_a_grid_gives_each_cell_the_value_of_its_own_training(data, tmp_path):
    space = read_space(["effect_weight=0,0.5", "learning_rate=1e-3"])
    summary = sweep(data, tmp_path / "s", space, OPTIONS, metric="eval_normal")
    assert len(summary["cells"]) == 2
    for number, cell in enumerate(summary["cells"]):
        assert cell["state"] == "complete"
        assert cell["value"] == value_of(data, tmp_path / str(number), cell["options"])
    values = [cell["value"] for cell in summary["cells"]]
    assert values == sorted(values)
    assert summary["best"] == summary["cells"][0]
    assert [run.name for run in (tmp_path / "s" / "cells").iterdir()] == [summary["best"]["run"].split("/")[1]]
    assert sweep(data, tmp_path / "s", space, OPTIONS, metric="eval_normal") == summary
    with pytest.raises(InputError, match="holds a sweep with another max_steps"):
        sweep(data, tmp_path / "s", space, OPTIONS | {"max_steps": 5}, metric="eval_normal")


@pytest.mark.parametrize(
    ("more", "steps"),
    [([], [2, 4, 6]), (["--evaluations", "1"], [6]), (["--evaluations", "3", "--preset", "authors"], [2, 4, 6])],
)
def test_evaluations_and_checkpoints_agree_without_a_word_about_them(data, tmp_path, more, steps):
    small = {key: value for key, value in SMALL.items() if not key.startswith(("save", "eval"))}
    options = [f"{key}={value}" for key, value in (small | {"max_steps": 6}).items()]
    words = ["--vary", "learning_rate=1e-3", "--metric", "eval_normal", *more, "--set", *options]
    main(["sweep", str(data), "--out", str(tmp_path / "s"), *words])
    (cell,) = json.loads((tmp_path / "s" / "summary.json").read_text())["cells"]
    assert cell["state"] == "complete"
    log = json.loads((tmp_path / "s" / cell["run"] / "log.json").read_text())["log"]
    assert [line["step"] for line in log if "eval_normal" in line] == steps


def test_a_hopeless_cell_is_stopped(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STARTUP", 1)
    space = read_space(["learning_rate=1e-2,1e-9"])
    summary = sweep(data, tmp_path / "s", space, OPTIONS, metric="eval_normal")
    good, hopeless = summary["cells"]
    assert (good["state"], hopeless["state"]) == ("complete", "stopped")
    assert hopeless["options"] == {"learning_rate": "1e-9"}
    assert hopeless["steps"] < good["steps"] == 4
    assert [path.name for path in (tmp_path / "s" / "cells").iterdir()] == ["learning_rate=1e-2"]


@pytest.mark.parametrize("keep_all", [False, True])
def test_a_cell_that_a_search_draws_again_is_trained_and_shown_once(data, tmp_path, monkeypatch, keep_all):
    trained = []
    monkeypatch.setattr(module, "train", lambda data, run, *rest: trained.append(run.name) or train(data, run, *rest))
    space = read_space(["beta=0.1,0.3"])
    options = {"metric": "eval_normal", "trials": 5, "keep_all": keep_all}
    summary = sweep(data, tmp_path / "s", space, OPTIONS, **options)
    runs = {run.name for run in (tmp_path / "s" / "cells").iterdir()}
    assert len(trained) == len(set(trained)) == 2
    assert {cell["options"]["beta"] for cell in summary["cells"]} == {"0.1", "0.3"}
    assert runs == {cell["run"].split("/")[1] for cell in summary["cells"] if "run" in cell}
    assert len(runs) == (2 if keep_all else 1)
    assert summary["best"]["run"].split("/")[1] in runs
    assert sweep(data, tmp_path / "s", space, OPTIONS, **options | {"trials": 6}) == summary


def test_a_later_call_removes_no_run_that_an_earlier_one_kept(data, tmp_path):
    space, options = read_space(["beta=0.1,0.3,0.5"]), OPTIONS | {"max_steps": 1}
    sweep(data, tmp_path / "s", space, options, metric="eval_normal", trials=2, keep_all=True)
    kept = {run.name for run in (tmp_path / "s" / "cells").iterdir()}
    assert kept
    whole = sweep(data, tmp_path / "s", space, options, metric="eval_normal")
    assert {cell["options"]["beta"] for cell in whole["cells"]} == {"0.1", "0.3", "0.5"}  # the grid, after a search
    runs = {run.name for run in (tmp_path / "s" / "cells").iterdir()}
    assert kept < runs == {cell["run"].split("/")[1] for cell in whole["cells"]}


def test_two_sweeps_do_not_share_a_folder(data, tmp_path):
    space = read_space(["beta=0.1"])
    summary = sweep(data, tmp_path / "s", space, OPTIONS | {"max_steps": 1}, metric="eval_normal")
    with held(tmp_path / "s"), pytest.raises(InputError, match="another command is changing it"):
        sweep(data, tmp_path / "s", space, OPTIONS | {"max_steps": 1}, metric="eval_normal")
    assert json.loads((tmp_path / "s" / "summary.json").read_text()) == summary


def test_a_search_says_what_it_drew_that_does_not_go_together(data, tmp_path):
    options = {key: value for key, value in OPTIONS.items() if key not in ("window", "history_stride")}
    space = read_space(["window=3,6", "history_stride=2,5"])
    summary = sweep(data, tmp_path / "s", space, options | {"max_steps": 1}, metric="eval_normal", trials=12)
    errors = {str(cell["options"]): cell.get("error", "") for cell in summary["cells"]}
    assert "history_stride=5: must be from 1 to window (3)" in errors[str({"window": "3", "history_stride": "5"})]
    assert sum(map(bool, errors.values())) == 1 and len(errors) > 1


def test_a_cell_killed_between_its_training_and_its_account_is_not_trained_again(data, tmp_path, monkeypatch):
    space, options = read_space(["beta=0.1,0.3"]), OPTIONS | {"max_steps": 1}
    whole = sweep(data, tmp_path / "whole", space, options, metric="eval_normal", keep_all=True)

    train_cell = module._train_cell

    def killed(*args):
        train_cell(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_train_cell", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(data, tmp_path / "cut", space, options, metric="eval_normal", keep_all=True)
    (run,) = (tmp_path / "cut" / "cells").iterdir()
    before = (run / "manifest.json").stat().st_mtime_ns
    left = run.with_name(f".{run.name}.checkpoints")  # as of a kill just before their removal
    left.mkdir()
    again = sweep(data, tmp_path / "cut", space, options, metric="eval_normal", keep_all=True)
    assert (run / "manifest.json").stat().st_mtime_ns == before and not left.exists()
    assert [(cell["options"], cell["value"]) for cell in again["cells"]] == [
        (cell["options"], cell["value"]) for cell in whole["cells"]
    ]


@pytest.mark.parametrize(
    ("log", "said"), [([], "was never evaluated"), ([{"eval_normal": float("nan")}], "gives eval_normal no number")]
)
def test_a_run_without_a_value_is_a_cell_that_failed(data, tmp_path, monkeypatch, log, said):
    monkeypatch.setattr(module, "read_json", lambda path: {"log": log} if path.name == "log.json" else read_json(path))
    summary = sweep(data, tmp_path / "s", read_space(["beta=0.1"]), OPTIONS | {"max_steps": 1}, metric="eval_normal")
    (cell,) = summary["cells"]
    assert cell["state"] == "failed" and said in cell["error"]


def test_values_that_differ_in_what_no_folder_is_named_by_are_trained_apart(data, tmp_path):
    space = read_space(["item_text={title} ({item_id}),{title} [{item_id}]"])
    summary = sweep(data, tmp_path / "s", space, OPTIONS, metric="eval_normal", keep_all=True)
    assert len({cell["run"] for cell in summary["cells"]}) == 2
    for cell in summary["cells"]:
        manifest = json.loads((tmp_path / "s" / cell["run"] / "manifest.json").read_text())
        assert manifest["config"]["item_text"] == cell["options"]["item_text"]


class Stop(TrainerCallback):
    """Interrupts at a step; stands for a progress bar."""

    def __init__(self, step):
        self.step = step

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("trials", [None, 3])
def test_an_interrupted_sweep_goes_on_to_the_same_summary(data, tmp_path, monkeypatch, trials):
    space = read_space(["effect_weight=0,0.3" if trials is None else "effect_weight=0..1"])
    options = {"metric": "eval_loss", "trials": trials, "keep_all": True}
    whole = sweep(data, tmp_path / "whole", space, OPTIONS, **options)
    with monkeypatch.context() as patch:
        patch.setattr(module, "TrainingBar", lambda name: Stop(3 if name.startswith("2") else -1))
        with pytest.raises(KeyboardInterrupt):
            sweep(data, tmp_path / "cut", space, OPTIONS, **options)
    assert len(json.loads((tmp_path / "cut" / "summary.json").read_text())["cells"]) == 1
    taken_up = sweep(data, tmp_path / "cut", space, OPTIONS, **options)
    assert len(taken_up["cells"]) == len(whole["cells"])
    before = {str(cell["options"]): cell["value"] for cell in whole["cells"]}
    assert len(taken_up["cells"]) == (trials or 2)
    same = [cell for cell in taken_up["cells"] if str(cell["options"]) in before]
    assert len(same) >= 2  # a search draws anew after an interruption
    assert all(cell["value"] == before[str(cell["options"])] for cell in same)


def test_a_run_of_other_options_is_not_taken_for_a_cell(data, tmp_path, monkeypatch):
    space, out = read_space(["beta=0.1,0.3"]), tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(module, "TrainingBar", lambda name: Stop(1))
        with pytest.raises(KeyboardInterrupt):
            sweep(data, out, space, OPTIONS, metric="eval_normal")
    other = train(data, out / "cells" / "beta=0.1", load_config(None, OPTIONS | {"beta": 0.2}))
    done, failed = sweep(data, out, space, OPTIONS, metric="eval_normal")["cells"]
    assert (done["state"], failed["state"]) == ("complete", "failed")
    assert "holds a RUN with another beta" in failed["error"]
    assert other.is_dir()


def test_a_cell_that_cannot_be_trained_is_recorded_with_its_reason(data, tmp_path):
    options = {key: value for key, value in OPTIONS.items() if key != "nano_vocab_size"}
    space = read_space(["nano_vocab_size=10,300"])
    summary = sweep(data, tmp_path / "s", space, options, metric="eval_normal")
    done, failed = summary["cells"]
    assert (done["state"], failed["state"], failed["value"]) == ("complete", "failed", None)
    assert "at least 257" in failed["error"]
    assert sweep(data, tmp_path / "s", space, options, metric="eval_normal") == summary


@pytest.mark.parametrize("trials", [None, 3])
def test_a_crash_shows_itself_and_keeps_no_other_cell_from_being_trained(data, tmp_path, monkeypatch, trials):
    first = []

    def crash(name):
        first.append(name.partition(": ")[2])
        if first[-1] == first[0]:
            raise RuntimeError("a bug")
        return Stop(-1)

    monkeypatch.setattr(module, "TrainingBar", crash)
    space = read_space(["beta=0.1,0.3" if trials is None else "beta=0.1..0.9"])

    def run():
        return sweep(data, tmp_path / "s", space, OPTIONS | {"max_steps": 1}, metric="eval_normal", trials=trials)

    with pytest.raises(RuntimeError, match="a bug"):
        run()
    if trials is None:
        with pytest.raises(RuntimeError, match="a bug"):
            run()
        (cell,) = json.loads((tmp_path / "s" / "summary.json").read_text())["cells"]
        assert cell["options"] == {"beta": "0.3"}
    else:
        assert len(run()["cells"]) == trials


def test_the_command_prints_the_cells_and_where_the_best_is(data, tmp_path, capsys):
    fixed = [f"{key}={value}" for key, value in OPTIONS.items()]
    words = ["sweep", str(data), "--out", str(tmp_path / "s"), "--vary", "beta=0.2,0.9", "--evaluations", "2"]
    main([*words, "--set", *fixed])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert {line.split("\t")[2] for line in lines[:2]} == {"beta=0.2", "beta=0.9"}
    assert (tmp_path / "s" / "cells" / lines[0].split("\t")[2] / "manifest.json").is_file()
    assert lines[2].endswith(lines[0].split("\t")[2])


@pytest.mark.parametrize(
    ("vary", "more", "message"),
    [
        (["effect_weight=0.5,-1"], {}, "effect_weight=-1"),
        (["betta=0.5,0.7"], {}, "^--vary betta: unknown option; did you mean beta"),
        (["foo=1,2"], {}, "^--vary foo: unknown option; is it misspelt"),
        (["metric_for_best_model=eval_loss,eval_ndcg@10"], {}, "^option metric_for_best_model: .* one metric"),
        (["beta=0.1,0.5"], {"metric": "eval_prior"}, "^--metric eval_prior: needs prior_weight above 0"),
        (["prior_weight=0,0.1"], {"metric": "eval_prior"}, "^--metric eval_prior: needs prior_weight above 0"),
        (
            ["effect_weight=0,0.1"],
            {"metric": "eval_effect"},
            "^--metric eval_effect: needs effect_weight or prior_weight",
        ),
        (["effect_weight=-1..7"], {"trials": 2}, "effect_weight=-1"),
        (["beta=0.1,0.5"], {"trials": 0}, "must be at least 1"),
        (["beta=0.1..0.5"], {"trials": 1, "seed": -1}, "--seed -1"),
        (["max_steps=2,3"], {}, "both fixed"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(data, tmp_path, vary, more, message):
    with pytest.raises(InputError, match=message):
        sweep(data, tmp_path / "s", read_space(vary), OPTIONS, **more)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"metric_for_best_model": "eval_loss"}, "--metric"),
        ({"save_strategy": "no"}, "steps or best"),
        ({"eval_strategy": "epoch"}, "--evaluations"),
        ({"eval_delay": 9}, "--evaluations"),
        ({"load_best_model_at_end": False}, "leave it out"),
    ],
)
def test_what_a_sweep_sets_itself_is_not_set(data, tmp_path, option, message):
    with pytest.raises(InputError, match=f"^option {next(iter(option))}: .*{message}"):
        sweep(data, tmp_path / "s", read_space(["beta=0.1,0.5"]), OPTIONS | option)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("vary", "metric", "trials", "fixed"),
    [
        ("effect_weight=0.1,0.2", "eval_effect", None, {}),
        ("effect_weight=0,0.1", "eval_effect", None, {"prior_weight": 0.1}),
        ("prior_weight=0..1", "eval_prior", 2, {}),
    ],
)
def test_a_metric_that_every_cell_measures_is_taken(data, tmp_path, vary, metric, trials, fixed):
    summary = sweep(
        data, tmp_path / "s", read_space([vary]), OPTIONS | {"max_steps": 1} | fixed, metric=metric, trials=trials
    )
    assert all(cell["value"] > 0 for cell in summary["cells"])


@pytest.mark.parametrize("metric", ["eval_loss", "eval_ndcg@10"])
def test_without_validation_targets_nothing_is_trained(data, tmp_path, metric):
    world = Dataset.load(data)
    without = dataclasses.replace(world, split=np.where(world.split == SPLITS.index("validation"), 0, world.split))
    without.save(tmp_path / "without")
    with pytest.raises(InputError, match="no validation target"):
        sweep(tmp_path / "without", tmp_path / "s", read_space(["beta=0.1,0.5"]), OPTIONS, metric=metric)
    assert not (tmp_path / "s").exists()
