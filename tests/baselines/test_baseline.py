"""`cftrec baseline` from a log to a comparison, and what goes wrong on the way."""

import json
import sys

import polars as pl
import pytest
from small_logs import make_log

from cftrec.cli import main
from cftrec.errors import InputError

SMALL = "factors=16 heads=1 length=6 batch_size=4 epochs=2"


@pytest.fixture
def data(tmp_path, log):
    log.save(tmp_path / "data")
    return tmp_path / "data"


def fails(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["baseline", *map(str, arguments)])
    shown = capsys.readouterr()
    assert (stop.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)
    return shown.err


class TestWithRecTools:
    @pytest.fixture(autouse=True)
    def rectools(self):
        pytest.importorskip("rectools", reason="RecTools is not installed; `make baselines` does")

    def test_from_a_log_to_a_comparison(self, tmp_path, data, log, capsys):
        models = {"popular": "", "itemknn": "", "sasrec": SMALL}
        for model, given in models.items():
            options = ["--set", *given.split()] if given else []
            main(["baseline", str(data), "--model", model, "--out", str(tmp_path / model), "--trials", "2", *options])
        assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "sasrec")
        main(["compare", *(str(tmp_path / model) for model in models), "--out", str(tmp_path / "all")])
        summary = json.loads((tmp_path / "all/summary.json").read_text())
        assert [row["model"] for row in summary["rows"]] == list(models)
        for model in models:
            manifest = json.loads((tmp_path / model / "manifest.json").read_text())
            assert (manifest["kind"], manifest["name"]) == ("predictions", model)
            assert manifest["config"]["model"] == model
            assert manifest["libraries"]["rectools"].startswith("0.19")
            best = max((trial["NDCG@10"] for trial in manifest["trials"]), default=None)
            chosen = {name: value for name, value in manifest["config"].items() if name != "model"}
            assert len(manifest["trials"]) == (0 if model == "popular" else 2)
            assert all(chosen != trial["settings"] or trial["NDCG@10"] == best for trial in manifest["trials"])
            assert not {"factors", "epochs"} & set(manifest["searched"])
            evaluation = json.loads((tmp_path / model / "evaluation.json").read_text())
            assert (evaluation["targets"], evaluation["model"]) == (len(log.targets("test")), model)

    def test_a_broken_off_search_goes_on(self, tmp_path, data, monkeypatch, capsys):
        from cftrec.baselines import rectools_models

        command = ["baseline", str(data), "--model", "ease", "--trials", "4"]
        main([*command, "--out", str(tmp_path / "whole")])
        fit, calls = rectools_models.fit, []

        def breaks(*arguments):
            calls.append(arguments[2])
            if len(calls) == 3:
                raise KeyboardInterrupt
            return fit(*arguments)

        monkeypatch.setattr(rectools_models, "fit", breaks)
        with pytest.raises(SystemExit) as stop:
            main([*command, "--out", str(tmp_path / "broken")])
        assert stop.value.code == 130
        assert not (tmp_path / "broken").exists()
        other = fails(capsys, data, "--model", "ease", "--trials", "3", "--out", tmp_path / "broken")
        assert "holds an interrupted search with other data or settings" in other
        main([*command, "--out", str(tmp_path / "broken")])
        trials = [trial["NDCG@10"] for trial in json.loads((tmp_path / "broken/manifest.json").read_text())["trials"]]
        again = trials.index(max(trials)) < 2  # the best model went with the first call
        assert len(calls) == 3 + 2 + again  # two trials are kept; two are left
        assert not list(tmp_path.glob(".broken*"))
        for name in ("metrics.json", "ranks.parquet"):
            assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    def test_another_split(self, tmp_path, data, log):
        main(["baseline", str(data), "--model", "popular", "--out", str(tmp_path / "p"), "--split", "validation"])
        assert pl.read_parquet(tmp_path / "p/ranks.parquet").height == len(log.targets("validation"))

    def test_nothing_to_tune_on(self, tmp_path, capsys):
        make_log([[0, 1], [1, 0]], 2).save(tmp_path / "data")
        for options in (["ease"], ["sasrec", "--trials", "1"]):
            line = fails(capsys, tmp_path / "data", "--out", tmp_path / "out", "--model", *options)
            assert f"has no validation targets, by which {options[0]} is tuned" in line
        line = fails(capsys, tmp_path / "data", "--out", tmp_path / "out", "--model", "popular")
        assert "no target in its test split" in line


def test_refusals_leave_nothing(tmp_path, data, capsys):
    out = tmp_path / "out"
    assert "unknown baseline" in fails(capsys, data, "--model", "als", "--out", out)
    assert "no such setting" in fails(capsys, data, "--model", "ease", "--out", out, "--set", "k=3")
    assert "unknown split" in fails(capsys, data, "--model", "ease", "--out", out, "--split", "nope")
    assert "-k 10: must be at least 20" in fails(capsys, data, "--model", "ease", "--out", out, "-k", "10")
    assert "--trials 0" in fails(capsys, data, "--model", "ease", "--out", out, "--trials", "0")
    assert "'popular' is" in fails(capsys, data, "--model", "ease", "--out", tmp_path / "popular")
    assert "not a dataset folder" in fails(capsys, tmp_path / "none", "--model", "ease", "--out", out)
    assert "not empty" in fails(capsys, data, "--model", "ease", "--out", data)
    assert "its name is not UTF-8" in fails(capsys, data, "--model", "ease", "--out", tmp_path / "e\udcff")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_rectools_is_missing(tmp_path, data, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rectools.dataset", None)
    monkeypatch.delitem(sys.modules, "cftrec.baselines.rectools_models", raising=False)
    line = fails(capsys, data, "--model", "ease", "--out", tmp_path / "out")
    assert "baselines need RecTools" in line
    assert "install it with `make baselines` or `pip install 'cftrec[baselines]'`" in line


def test_help_lists_the_settings(capsys):
    with pytest.raises(SystemExit):
        main(["baseline", "--help"])
    shown = capsys.readouterr().out
    assert "settings of popular for --set KEY=VALUE: none" in shown
    assert "learning_rate" in shown


def test_a_folder_of_predictions_is_no_run(tmp_path, log):
    from cftrec.artefacts import new_folder
    from cftrec.recommender import Recommender

    with new_folder(tmp_path / "p", "predictions", {}):
        pass
    with pytest.raises(InputError, match="this is a predictions folder, where a run is needed"):
        Recommender.from_pretrained(tmp_path / "p")
