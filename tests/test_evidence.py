"""A study from its file to the page, by the commands of cftrec, and what a second call and an interruption do."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from cftrec.artefacts import read_json
from cftrec.cli import main

pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
pytest.importorskip("rectools", reason="RecTools is not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
evidence = importlib.import_module("evidence")
evidence_page = importlib.import_module("evidence_page")

MAIN = {
    "title": "A small log",
    "options": {"nano_hidden_size": 16, "nano_heads": 2, "nano_layers": 1, "nano_vocab_size": 280, "max_steps": 3},
    "evaluate": "--effect-targets 5",
    "seeds": [1, 2],
    "search": {"trials": 2, "evaluations": 1, "metric": "eval_normal", "options": {"max_steps": 2}},
    "methods": {
        "plain": {"set": {"effect_weight": 0, "beta": 1}, "vary": ["learning_rate=1e-3..1e-2:log"]},
        "cft": {"vary": ["learning_rate=1e-3..1e-2:log", "effect_weight=0.01..0.5:log"]},
    },
    "baselines": {"itemknn": {"set": {"weighting": "cosine"}, "trials": 2}},
    "mixed": {"cft with itemknn": {"method": "cft", "helper": "itemknn", "weights": [0.25, 0.75], "scales": [9]}},
    "rivals": {"itemknn twice": {"baseline": "itemknn", "helper": "itemknn", "weights": [0.5, 0.75]}},
}
QUESTION = {
    "title": "A part",
    "question": "Does it help?",
    "base": "small",
    "seeds": [2],
    "beside": ["itemknn", "plain", "cft"],
    "methods": {"prior kept": {"like": "cft", "set": {"prior_weight": 0.1}}},
    "ways": {"cft": ["--beam 1", "--gamma 0.5"]},
    "baselines": {"the same again": {"model": "itemknn", "like": "itemknn"}},
    "mixed": {"plain with itemknn": {"method": "plain", "helper": "itemknn", "weights": [0.4]}},
}

BEAM = QUESTION | {"beside": ["cft"], "methods": {}, "ways": {"cft": ["--beam 1"]}, "baselines": {}, "mixed": {}}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Studies, results and page in a folder of their own; commands run in this process and are counted."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", 100 * user + n) for user in range(20) for n, item in enumerate(rng.permutation(9)[:6])
    ]
    pl.DataFrame(rows, ["user_id", "item_id", "time"], orient="row").write_csv(tmp_path / "log.csv")
    items = {"item_id": [f"i{n}" for n in range(9)], "title": [f"Title {n}" for n in range(9)]}
    pl.DataFrame(items).write_csv(tmp_path / "items.csv")
    source = f"{tmp_path}/log.csv --format table --items {tmp_path}/items.csv --timestamp-column time"
    everybody = {"everybody": {"model": "itemknn", "like": "itemknn", "data": source}}
    small = MAIN | {"data": f"{source} --sample-users 16", "baselines": MAIN["baselines"] | everybody}
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "small.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    (tmp_path / "studies" / "a-part.yaml").write_text(yaml.safe_dump(QUESTION, sort_keys=False))
    monkeypatch.setattr(evidence, "STUDIES", tmp_path / "studies")
    monkeypatch.setattr(evidence, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(evidence, "DRAWS", 50)
    monkeypatch.setattr(evidence_page, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(evidence_page, "ROOT", tmp_path)
    monkeypatch.setattr(evidence_page, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr(evidence_page, "PICTURES", tmp_path / "pictures")
    called = []

    def command(runner, name, words):
        called.append(name)
        try:
            main([*map(str, words)])
        except SystemExit as error:
            raise evidence.Failed(name) from error

    monkeypatch.setattr(evidence.Runner, "command", command)

    def run(*words):
        called.clear()
        monkeypatch.setattr(sys, "argv", ["evidence", *words, "--work", str(tmp_path / "work"), "--jobs", "1"])
        evidence.main()
        return list(called)

    return tmp_path, run


def test_studies_from_their_files_to_the_page(place, capsys):
    folder, run = place
    first = run()
    assert first[:4] == ["prepare", "itemknn", "search-plain", "search-cft"]
    last = [name for name in first if "everybody" in name]
    assert last == ["prepare-everybody", "everybody", "evaluate-everybody"]
    assert {"plain-1", "plain-2", "cft-1", "cft-2", "prior kept-2"} <= set(first) and "prior kept-1" not in first

    result = read_json(folder / "results" / "small.json")
    best = read_json(folder / "work" / "small" / "search-cft" / "summary.json")["best"]["options"]
    manifest = read_json(folder / "work" / "small" / "cft-2" / "manifest.json")
    assert manifest["config"]["seed"] == 2
    for name in ("learning_rate", "effect_weight"):
        assert manifest["config"][name] == pytest.approx(float(best[name]))
    metrics = [read_json(folder / "work" / "small" / f"cft-{seed}" / "metrics.json") for seed in (1, 2)]
    assert read_json(folder / "work" / "small" / "cft-2" / "evaluation.json")["effect_targets"] == 5
    rows = {row["model"]: row for row in result["summary"]["rows"]}
    assert list(rows) == ["popular", "itemknn", "everybody", "plain", "cft", "cft with itemknn", "itemknn twice"]
    assert rows["cft"]["NDCG@10"] == pytest.approx(np.mean([one["NDCG@10"] for one in metrics]))
    assert result["methods"]["cft"]["steps"] == [3, 3] and len(result["methods"]["cft"]["search"]) == 2

    settings = result["baselines"]["itemknn"]["config"]
    assert len(result["baselines"]["itemknn"]["trials"]) == 2 and result["baselines"]["everybody"]["config"] == settings
    users = [len(pl.read_parquet(folder / "work/small" / name / "ranks.parquet")) for name in ("everybody", "itemknn")]
    assert (len(pl.read_parquet(folder / "work/small/trained-everybody/ranks.parquet")), *users) == (20, 16, 16)

    mixed = result["mixed"]["cft with itemknn"]
    runs = [folder / "work" / "small" / f"cft-{seed}" / f"helper-{mixed['chosen'][0]:g}x9-itemknn" for seed in (1, 2)]
    tried = folder / "work" / "small" / "cft-1" / "validation"
    folders = [tried / f"helper-{weight:g}x9-itemknn-sample-16" for weight in (0.25, 0.75)]
    values = [read_json(one / "metrics.json")["NDCG@10"] for one in folders]
    assert mixed["tried"] == [[0.25, 9, values[0]], [0.75, 9, values[1]]]
    assert mixed["chosen"] == [(0.75, 0.25)[int(values[0] >= values[1])], 9]
    helped = np.mean([read_json(run / "metrics.json")["NDCG@10"] for run in runs])
    assert rows["cft with itemknn"]["NDCG@10"] == pytest.approx(helped)

    rival = result["rivals"]["itemknn twice"]  # nothing changes a list but another
    alone = read_json(folder / "work" / "small" / "validation" / "itemknn" / "metrics.json")["NDCG@10"]
    assert rival["tried"] == [[0.5, 1, alone], [0.75, 1, alone]] and rival["chosen"] == [0.5, 1]
    assert rows["itemknn twice"]["NDCG@10"] == rows["itemknn"]["NDCG@10"]

    part = read_json(folder / "results" / "a-part.json")
    found = {row["model"]: row["NDCG@10"] for row in part["summary"]["rows"]}
    names = ["popular", "itemknn", "plain", "cft", "the same again", "prior kept", "cft beam 1", "cft gamma 0.5"]
    assert list(found) == [*names, "plain with itemknn"]
    assert found["the same again"] == found["itemknn"] and part["baselines"]["the same again"]["config"] == settings
    helped = read_json(folder / "work" / "small" / "plain-2" / "helper-0.4-itemknn" / "metrics.json")
    assert found["plain with itemknn"] == pytest.approx(helped["NDCG@10"])
    kept = read_json(folder / "work" / "a-part" / "prior kept-2" / "manifest.json")["config"]
    assert (kept["prior_weight"], kept["effect_weight"]) == (0.1, pytest.approx(float(best["effect_weight"])))

    page = (folder / "results.md").read_text()
    assert page.index("## A small log") < page.index("Does it help? One seed: 2.")
    for name in ("small", "a-part"):
        assert f"results/{name}.svg" in page and (folder / "pictures" / f"{name}.svg").read_text().startswith("<?xml")

    capsys.readouterr()
    assert run() == []
    assert "small: its result is there" in capsys.readouterr().out


def test_lost_runs_are_trained_again_with_what_was_found(place, monkeypatch):
    """No search is done again: not of a study cut short, nor where a question needs RUNs of a finished study."""
    folder, run = place
    small = yaml.safe_load((folder / "studies" / "small.yaml").read_text()) | {"seeds": [2], "mixed": {}, "rivals": {}}
    small["methods"] = {"cft": small["methods"]["cft"]}
    small["baselines"] = {"itemknn": small["baselines"]["itemknn"]}
    (folder / "studies" / "small.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    (folder / "studies" / "a-part.yaml").write_text(yaml.safe_dump(BEAM, sort_keys=False))
    with monkeypatch.context() as patch:
        patch.setattr(evidence.Runner, "train", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("small")
    shutil.rmtree(folder / "work")
    assert run("small") == ["prepare", "itemknn", "cft-2", "evaluate-cft-2"]
    assert not list((folder / "results" / "searches").iterdir())
    before = read_json(folder / "results" / "small.json")
    assert len(before["methods"]["cft"]["search"]) == len(before["baselines"]["itemknn"]["trials"]) == 2
    shutil.rmtree(folder / "work")
    again = run("a-part")
    assert again[:4] == ["prepare", "itemknn", "cft-2", "evaluate-cft-2"]  # and no search
    after = read_json(folder / "results" / "small.json")
    assert after["methods"]["cft"]["search"] == before["methods"]["cft"]["search"]
    assert after["baselines"]["itemknn"]["trials"] == before["baselines"]["itemknn"]["trials"]
    assert after["baselines"]["itemknn"]["config"] == before["baselines"]["itemknn"]["config"]
    assert [row["NDCG@10"] for row in after["summary"]["rows"]] == [row["NDCG@10"] for row in before["summary"]["rows"]]
    assert run() == []


def test_an_interrupted_study_goes_on(place, monkeypatch, capsys):
    folder, run = place
    whole = evidence.Runner.command

    def interrupted(runner, name, words):
        if name == "evaluate-cft-1":
            raise KeyboardInterrupt
        whole(runner, name, words)

    with monkeypatch.context() as patch:
        patch.setattr(evidence.Runner, "command", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("small")
    assert not (folder / "results" / "small.json").exists()
    rest = run("small")
    assert rest[0] == "evaluate-cft-1" and "plain-1" not in rest and "search-cft" not in rest
    shutil.rmtree(folder / "work" / "small" / "cft-2")
    study = json.loads(json.dumps(yaml.safe_load((folder / "studies" / "small.yaml").read_text())))
    (folder / "studies" / "small.yaml").write_text(yaml.safe_dump(study | {"title": "Another"}, sort_keys=False))
    assert run("small") == ["cft-2", "evaluate-cft-2", "mix-cft with itemknn-2"]
    changed = study | {"options": study["options"] | {"max_steps": 4}, "title": "A third"}
    (folder / "studies" / "small.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    with pytest.raises(SystemExit, match="small: not finished"):
        run("small")
    assert "small was made with another options; remove it, or name another --work" in capsys.readouterr().err
    more = study | {"seeds": [1, 2, 3], "title": "A third"}
    (folder / "studies" / "small.yaml").write_text(yaml.safe_dump(more, sort_keys=False))
    assert run("small") == ["plain-3", "evaluate-plain-3", "cft-3", "evaluate-cft-3", "mix-cft with itemknn-3"]
    assert "## A third" in (folder / "results.md").read_text()


def test_a_study_that_fails_leaves_the_others_and_a_base_is_run_again_where_its_runs_are_gone(place, capsys):
    folder, run = place
    small = yaml.safe_load((folder / "studies" / "small.yaml").read_text())
    small |= {"seeds": [1], "search": {"trials": 1, "evaluations": 1}, "baselines": {}, "mixed": {}, "rivals": {}}
    small["methods"] = {"cft": small["methods"]["cft"]}
    (folder / "studies" / "small.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    (folder / "studies" / "a-part.yaml").write_text(yaml.safe_dump(BEAM, sort_keys=False))
    run("small")
    shutil.rmtree(folder / "work")
    broken = MAIN | {"data": f"{folder}/nowhere --format table"}
    (folder / "studies" / "a-broken.yaml").write_text(yaml.safe_dump(broken, sort_keys=False))
    with pytest.raises(SystemExit, match="evidence: a-broken: not finished"):
        run()
    assert "nowhere" in capsys.readouterr().err
    assert (folder / "results" / "a-part.json").exists()


def test_an_unknown_study_is_named(place):
    with pytest.raises(SystemExit, match="no study nothing; there are a-part, small"):
        place[1]("nothing")


def test_a_study_whose_rows_are_its_own_does_not_train_its_base_again(place):
    """What is left of the base is its result; its data is prepared anew, and later its RUNs where they are needed."""
    folder, run = place
    small = yaml.safe_load((folder / "studies" / "small.yaml").read_text())
    small |= {"seeds": [1], "search": {"trials": 1, "evaluations": 1}, "baselines": {}, "mixed": {}, "rivals": {}}
    small["methods"] = {"cft": small["methods"]["cft"]}
    (folder / "studies" / "small.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    own = {"title": "Own", "base": "small", "methods": {"no effect": {"like": "cft", "set": {"effect_weight": 0}}}}
    (folder / "studies" / "own.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
    (folder / "studies" / "a-part.yaml").write_text(yaml.safe_dump(BEAM, sort_keys=False))
    run("small")
    shutil.rmtree(folder / "work")
    (folder / "studies" / "a-part.yaml").rename(folder / "a-part.yaml")
    assert run("own") == ["prepare", "no effect-1", "evaluate-no effect-1"]
    (folder / "a-part.yaml").rename(folder / "studies" / "a-part.yaml")
    assert run()[:2] == ["cft-1", "evaluate-cft-1"]


def test_a_kept_study_gets_a_seed_more_without_training_the_others_again(place):
    folder, run = place
    small = yaml.safe_load((folder / "studies" / "small.yaml").read_text())
    small |= {"seeds": [1], "keep": True, "baselines": {}, "mixed": {}, "rivals": {}}
    small["methods"] = {"cft": {"set": {"learning_rate": "1e-3"}}, "plain": {"set": {"effect_weight": 0, "beta": 1}}}
    (folder / "studies" / "a-part.yaml").unlink()

    def with_(**changes):
        (folder / "studies" / "small.yaml").write_text(yaml.safe_dump(small | changes, sort_keys=False))
        return run("small")

    first = ["cft-1", "evaluate-cft-1", "plain-1", "evaluate-plain-1"]
    assert with_() == ["prepare", *first]
    before = read_json(folder / "results" / "small.json")
    kept = list((folder / "results" / "runs").rglob("*"))
    assert {file.name for file in kept if file.is_file()} == {"lists.parquet", "facts.json"}
    assert not any(b"Title" in file.read_bytes() or b"u1" in file.read_bytes() for file in kept if file.is_file())
    shutil.rmtree(folder / "work")
    back = ["put-back-cft-1", "put-back-plain-1"]
    assert with_(title="Nothing trained") == ["prepare", *back]
    after = read_json(folder / "results" / "small.json")
    assert after["summary"] == before["summary"] and after["methods"] == before["methods"]

    shutil.rmtree(folder / "work")
    further = ["cft-2", "evaluate-cft-2", "plain-2", "evaluate-plain-2"]
    assert with_(seeds=[1, 2]) == ["prepare", *back, *further]
    both = {row["model"]: row["NDCG@10"] for row in read_json(folder / "results" / "small.json")["summary"]["rows"]}
    last = read_json(folder / "work" / "small" / "cft-2" / "metrics.json")["NDCG@10"]
    one = {row["model"]: row["NDCG@10"] for row in before["summary"]["rows"]}
    assert both["cft"] == pytest.approx((one["cft"] + last) / 2)

    with pytest.raises(SystemExit, match="small: not finished"):  # what is there was made in another way
        with_(evaluate="--effect-targets 6")
    shutil.rmtree(folder / "work")  # and is not put back
    assert with_(evaluate="--effect-targets 6") == ["prepare", *first]
    (folder / "studies" / "own.yaml").write_text(yaml.safe_dump({"title": "Own", "base": "small"}))
    with pytest.raises(SystemExit, match="own: asks more of RUNs than their lists"):
        run("small")


def test_two_baselines_lists_are_mixed_by_weight_and_scale(tmp_path):
    rng = np.random.default_rng(1)
    scores = {name: rng.normal(size=(2, 5)) for name in ("first", "helper")}
    shown = {"first": [[0, 1, 2], [4, 0, 3]], "helper": [[1, 2, 3], [2, 3, 4]]}  # i4 is in no list of the first user
    for name, lists in shown.items():
        kept = [[scores[name][user, item] for item in items] for user, items in enumerate(lists)]
        ids = [[f"i{item}" for item in items] for items in lists]
        frame = {"user": ["a", "b"], "history_length": [3, 4], "items": ids, "scores": kept}
        pl.DataFrame(frame).write_parquet(tmp_path / f"{name}.parquet")
    made = evidence.mixed_lists(tmp_path / "first.parquet", tmp_path / "helper.parquet", 0.3, 7)
    for user, name in enumerate(("a", "b")):
        items = sorted({*shown["first"][user], *shown["helper"][user]})
        least = {key: scores[key][user, shown[key][user]].min() for key in scores}
        told = {
            key: [scores[key][user, item] if item in shown[key][user] else least[key] for item in items]
            for key in scores
        }
        logs = {key: np.array(told[key]) * by for key, by in (("first", 1), ("helper", 7))}
        logs = {key: value - np.log(np.exp(value).sum()) for key, value in logs.items()}
        order = np.argsort(-(0.7 * logs["first"] + 0.3 * logs["helper"]))
        rows = made.filter(pl.col("user") == name)
        assert rows["item"].to_list() == [f"i{items[place]}" for place in order]
        assert rows["rank"].to_list() == list(range(1, len(items) + 1))
