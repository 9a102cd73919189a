"""The command line from a log to recommendations, and every piece of bad input: exit 2 and one clear line."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file

from cftrec import Catalogue, Dataset, Recommender
from cftrec.cli import main

GAMES = Path(__file__).parents[2] / "shared" / "data" / "amazon-games"
TITLES = [
    "Star Wars (1977)",
    "Star Wars",
    "Amélie 🎬",
    "Fargo",
    "Alien",
    "Aliens",
    "A, B & C",
    "<script>x</script>",
    "Up",
    "M",
]
TINY = (
    "nano_hidden_size=16 nano_heads=2 nano_layers=1 nano_vocab_size=280 per_device_train_batch_size=16 category=movie"
)


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """A CSV log of 30 users, five of them too short for a target."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{item}", 1000 * user + place)
        for user in range(30)
        for place, item in enumerate(rng.permutation(10)[: 2 if user < 5 else rng.integers(3, 9)])
    ]
    folder = tmp_path_factory.mktemp("log")
    pl.DataFrame(rows, ["user_id", "item_id", "time"], orient="row").write_csv(folder / "log.csv")
    pl.DataFrame({"item_id": [f"i{item}" for item in range(10)], "title": TITLES}).write_csv(folder / "items.csv")
    return folder


def prepare(log: Path, out: Path, *more: str) -> None:
    items = ["--items", str(log / "items.csv"), "--timestamp-column", "time"]
    main(["prepare", str(log / "log.csv"), "--format", "table", "--out", str(out), *items, *more])


@pytest.fixture(scope="module")
def dataset(log) -> Path:
    prepare(log, log / "dataset")
    return log / "dataset"


def train(dataset: Path, out: Path, *options: str) -> Path:
    main(["train", str(dataset), "--out", str(out), "--set", *TINY.split(), "max_steps=4", *options])
    return out


@pytest.fixture(scope="module")
def runs(dataset) -> list[Path]:
    """Two evaluated runs."""
    made = [
        train(dataset, dataset.parent / "cft"),
        train(dataset, dataset.parent / "plain", "effect_weight=0", "beta=1", "prior_weight=0.1"),
    ]
    for run in made:
        main(["evaluate", str(run), str(dataset)])
    return made


def fails(capsys, *arguments: str, code: int = 2) -> str:
    """Run a command that must fail and return its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    shown = capsys.readouterr()
    assert stop.value.code == code
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("cftrec: ")
    return shown.err


def test_dataset_accounts_for_every_event(dataset):
    data = Dataset.load(dataset)
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    for step in manifest["steps"]:
        assert step["events"]["in"] == step["events"]["kept"] + sum(step["events"]["dropped"].values())
    assert len(data.users) == 30
    assert len(data.targets("test")) == len(data.targets("validation")) == 25


def test_samples_as_alpaca_json_and_back(dataset, tmp_path, capsys):
    main(["data", str(dataset), "--prompt", "alpaca", "--window", "10", "--alpaca", str(tmp_path / "json")])
    assert f"{tmp_path / 'json'}: " in capsys.readouterr().out
    main(["prepare", str(tmp_path / "json"), "--out", str(tmp_path / "back")])
    before, after = Dataset.load(dataset), Dataset.load(tmp_path / "back")
    for split in ("train", "validation", "test"):
        assert len(before.targets(split)) == len(after.targets(split))
    assert "needs the sections" in fails_after_output(capsys, dataset, tmp_path)


def fails_after_output(capsys, dataset, tmp_path) -> str:
    """Return what is said of a prompt that has no such sections."""
    with pytest.raises(SystemExit) as stop:
        main(["data", str(dataset), "--alpaca", str(tmp_path / "other")])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_run_is_self_contained(runs, dataset, tmp_path):
    """A copy of a RUN recommends where nothing else of the flow is left."""
    moved = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", str(runs[0]), str(moved)], check=True)
    recommender = Recommender.from_pretrained(moved)
    assert isinstance(recommender.catalogue, Catalogue)
    assert recommender.catalogue.titles == TITLES
    answer = recommender.recommend([["Star Wars", "Up"], []], k=4)
    assert [len(items) for items in answer] == [4, 4]
    assert not {"Star Wars", "Up"} & {item.title for item in answer[0]}
    scores = recommender.score([["Star Wars", "Up"], []], TITLES)
    assert scores.shape == (2, 10)
    for row, items in enumerate(answer):
        for item in items:
            assert item.score == pytest.approx(scores[row][TITLES.index(item.title)], abs=1e-4)
            assert item.item_id == f"i{TITLES.index(item.title)}"


def test_run_says_how_it_came_about(runs, dataset):
    manifest = json.loads((runs[0] / "manifest.json").read_text())
    config = yaml.safe_load((runs[0] / "config.yaml").read_text())
    assert manifest["name"] == "cft"
    assert manifest["steps"] == 4
    assert config["effect_weight"] == 0.1
    assert config["seed"] == 42
    logged = json.loads((runs[0] / "log.json").read_text())["log"]
    assert {"train_loss", "train_runtime"} <= set(logged[-1])


def test_config_file_and_overrides(dataset, tmp_path):
    (tmp_path / "c.yaml").write_text("beta: 0.5\nlearning_rate: 1e-3\neffect_weight: 0.3\n")
    options = ["--config", str(tmp_path / "c.yaml"), "--set", "effect_weight=0.2", "--set", "logging_steps=1"]
    run = tmp_path / "run"
    main(["train", str(dataset), "--out", str(run), "--set", *TINY.split(), "max_steps=2", *options])
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["beta"], config["effect_weight"], config["learning_rate"]) == (0.5, 0.2, 0.001)
    first = json.loads((run / "log.json").read_text())["log"][0]
    assert {"loss", "normal", "effect", "samples_per_second", "tokens_computed", "tokens_naive"} <= set(first)
    assert first["loss"] == pytest.approx(first["normal"] + 0.2 * first["effect"], rel=1e-5)
    assert 0 < first["tokens_computed"] < first["tokens_naive"]


def test_evaluate_writes_metrics_and_ranks(runs, dataset):
    data, run = Dataset.load(dataset), runs[0]
    metrics = json.loads((run / "metrics.json").read_text())
    ranks = pl.read_parquet(run / "ranks.parquet")
    expected = {f"{name}@{k}" for name in ("HR", "NDCG", "MRR") for k in (1, 5, 10, 20)}
    assert expected <= set(metrics)
    assert ranks.height == 25
    assert ranks["exact"].all()
    recommender = Recommender.from_pretrained(run)
    ids = data.items["item_id"].to_list()
    for row, position in zip(ranks.iter_rows(named=True), data.targets("test"), strict=True):
        history = [ids[item] for item in data.history(position)]
        target = ids[data.events[position]]
        assert (row["target"], row["history_length"]) == (target, len(history))
        scores = recommender.score([[TITLES[ids.index(item)] for item in history]], TITLES)[0]
        left = [item for item in ids if item not in history or item == target]
        best = sorted(left, key=lambda item: -scores[ids.index(item)])
        assert row["rank"] == 1 + best.index(target)
        np.testing.assert_allclose(row["scores"], [scores[ids.index(item)] for item in best], atol=1e-4)
    hits = ranks["rank"].to_numpy() <= 5
    assert metrics["HR@5"] == pytest.approx(hits.mean())


def test_evaluate_another_split(runs, dataset, capsys):
    main(["evaluate", str(runs[0]), str(dataset), "--split", "validation"])
    assert (runs[0] / "validation" / "metrics.json").is_file()
    shown = capsys.readouterr().out
    assert "NDCG@10" in shown
    assert shown.count(str(runs[0] / "validation")) == 1


@pytest.mark.parametrize(("prior", "which"), [("counts", 0), ("counterfactual", 0), ("trained", 1)])
def test_evaluate_measures_the_effect(runs, dataset, capsys, prior, which):
    """Where nothing is forced or shared, log p of the target is its score; the prior of counts is their share."""
    main(["evaluate", str(runs[which]), str(dataset), "--split", "validation", "--prior", prior])
    shown = capsys.readouterr().out
    folder, data, recommender = (
        runs[which] / "validation",
        Dataset.load(dataset),
        Recommender.from_pretrained(runs[which]),
    )
    summary, table = json.loads((folder / "effects.json").read_text()), pl.read_parquet(folder / "effects.parquet")
    assert (summary["prior"], summary["targets"], table.height) == (prior, 25, 25)
    counts = data.item_counts() + 0.5
    expected = np.log(counts / counts.sum()) if prior == "counts" else recommender.score([[]], TITLES)[0]
    for row, position in zip(table.iter_rows(named=True), data.targets("validation"), strict=True):
        target, history = data.events[position], data.items["title"].gather(data.history(position)).to_list()
        score = recommender.score([history], [TITLES[target]])[0, 0]
        assert row["effect"] == pytest.approx(score - expected[target], abs=1e-4)
    assert f"effect   {summary['effect']['mean']:.4f} nats over the prior {prior}" in shown
    assert summary["fade"]["sentence"] in shown
    command = ["evaluate", str(runs[which]), str(dataset), "--split", "validation", "--prior", prior]
    main([*command, "--effect-targets", "7"])
    assert json.loads((folder / "effects.json").read_text())["targets"] == 7
    capsys.readouterr()
    main([*command[:-2], "--effect-targets", "0"])
    assert "effect" not in capsys.readouterr().out
    if prior != "counts":
        assert "--prior is not read with --effect-targets 0" in fails(capsys, *command, "--effect-targets", "0")


def test_evaluate_within_candidates_leaves_the_rest_alone(runs, dataset, capsys, tmp_path):
    before = (runs[0] / "metrics.json").read_bytes()
    main(["evaluate", str(runs[0]), str(dataset), "--candidates", "3", "--sample", "9", "--seed", "5"])
    folder = runs[0] / "sample-9-seed-5"
    summary = json.loads((folder / "candidates.json").read_text())
    assert (summary["targets"], summary["drawn"], summary["seed"]) == (9, 3, 5)
    shown = capsys.readouterr().out
    assert f"HR@1     {summary['HR@1']:.4f}" in shown
    assert shown.splitlines()[-1] == str(folder)
    ranks = pl.read_parquet(folder / "candidate_ranks.parquet")
    assert summary["HR@1"] == pytest.approx((ranks["rank"] == 1).mean())
    rows = {"user": ranks["user"], "item": ranks["target"]}
    pl.DataFrame(rows).write_csv(tmp_path / "own.csv")
    main(
        [
            "evaluate",
            str(runs[0]),
            str(dataset),
            "--candidates",
            str(tmp_path / "own.csv"),
            "--sample",
            "9",
            "--seed",
            "5",
        ]
    )
    assert json.loads((folder / "candidates.json").read_text())["HR@1"] == 1, "each has its target alone"
    assert (runs[0] / "metrics.json").read_bytes() == before


def test_training_on_a_random_sample(dataset, tmp_path):
    run = tmp_path / "few"
    main(["train", str(dataset), "--out", str(run), "--sample", "20", "--set", *TINY.split(), "num_train_epochs=2"])
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["samples"], manifest["config"]["sample"], manifest["steps"]) == (20, 20, 4)


def test_the_best_model_by_ndcg_is_the_run(dataset, tmp_path):
    """What training measured of its best step is what the finished RUN is found to have."""
    best = ["metric_for_best_model=eval_ndcg@10", "load_best_model_at_end=true", "eval_strategy=steps", "patience=3"]
    run = train(dataset, tmp_path / "run", *best, "eval_steps=2", "save_steps=2", "max_steps=20", "learning_rate=0.03")
    lines = json.loads((run / "log.json").read_text())["log"]
    values = [line["eval_ndcg@10"] for line in lines if "eval_ndcg@10" in line]
    waited = len(values) - 1 - values.index(max(values))
    assert waited == 3 or len(values) == 10
    main(["evaluate", str(run), str(dataset), "--split", "validation"])
    metrics = json.loads((run / "validation" / "metrics.json").read_text())
    assert metrics["NDCG@10"] == pytest.approx(max(values), rel=1e-12)
    assert len(set(values)) > 1


def test_compare_writes_summary_and_report(runs, tmp_path, capsys):
    main(["compare", *map(str, runs), "--out", str(tmp_path / "c")])
    summary = json.loads((tmp_path / "c" / "summary.json").read_text())
    rows = {row["model"]: row for row in summary["rows"]}
    assert list(rows) == ["popular", "cft", "plain"]
    for row in rows.values():
        assert row["NDCG@10_ci"][0] <= row["NDCG@10"] <= row["NDCG@10_ci"][1]
    assert {(t["a"], t["b"]) for t in summary["tests"]} == {("cft", "popular"), ("plain", "popular"), ("plain", "cft")}
    html = (tmp_path / "c" / "report.html").read_text()
    assert "<script>x</script>" not in html
    assert not re.search(r"(src|href)=[\"']?http", html)
    assert str(tmp_path / "c" / "report.html") in capsys.readouterr().out


def test_compare_groups_seeds(runs, dataset, tmp_path, capsys):
    again = train(dataset, tmp_path / "cft-7", "seed=7")
    main(["evaluate", str(again), str(dataset)])
    shown = capsys.readouterr().out
    assert re.search(r"^NDCG@10 +0\.\d{4} +0\.\d{4} to 0\.\d{4}$", shown, re.MULTILINE)
    assert re.search(r"^Gini@10 ", shown, re.MULTILINE)
    main(["compare", str(runs[0]), str(again), f"other={runs[1]}", "--group-seeds", "--out", str(tmp_path / "c")])
    summary = json.loads((tmp_path / "c" / "summary.json").read_text())
    assert [row["model"] for row in summary["rows"]] == ["popular", "cft", "other"]
    assert [member["seed"] for member in summary["seeds"]["cft"]] == [42, 7]
    assert "same seed" in fails(capsys, "compare", f"x={runs[0]}", f"x={runs[1]}", "--out", str(tmp_path / "d"))
    assert "NAME=RUN" in fails(capsys, "compare", "x=", "--out", str(tmp_path / "d"))
    assert "needs at least one RUN" in fails(capsys, "compare", "--out", str(tmp_path / "d"))


def test_recommend_prints_titles_and_scores(runs, capsys):
    main(["recommend", str(runs[0]), "--history", "Star Wars (1977)", "A, B & C", "-k", "3"])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert all(line[2] in TITLES and float(line[1]) < 0 for line in lines)
    assert not {"Star Wars (1977)", "A, B & C"} & {line[2] for line in lines}
    main(["recommend", str(runs[0]), "--history", "Up", "-k", "20", "--keep-history"])
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_recommend_keeps_to_rules(runs, log, tmp_path, capsys):
    def items(*more: str) -> list[str]:
        main(["recommend", str(runs[0]), "--history", "Up", "-k", "20", *more])
        return [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()]

    (tmp_path / "three").write_text("M\n\ni2\nUp\n", encoding="utf-8")
    (tmp_path / "one").write_text("\ufeffM\n", encoding="utf-8")
    three, one = str(tmp_path / "three"), str(tmp_path / "one")
    assert sorted(items("--allow", three)) == ["Amélie 🎬", "M"]
    assert items("--allow", three, "--deny", one) == ["Amélie 🎬"]
    assert len(items("--beam", "2")) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cap", "genre=2", "--cap", "genre=1"], "--cap: one of genre is given twice"),
        (["--cap", "genre=two"], "--cap genre=two: 'two' is no whole number"),
        (["--budget", "-5"], "budget must be at least 1, not -5"),
        (["--budget-ms", "nan"], "budget_ms must be at least 0, not nan"),
    ],
)
def test_rules_that_are_none(runs, capsys, options, message):
    assert message in fails(capsys, "recommend", str(runs[0]), "--history", "Up", *options)


def longer_than_before(run):
    sizes = np.diff(Recommender.from_pretrained(run).catalogue.offsets)
    return bool(sizes[10:].max() > sizes[:10].max())


def test_items_are_added(runs, log, tmp_path, capsys):
    shutil.copytree(runs[0], tmp_path / "run")
    (tmp_path / "new.csv").write_text("item_id,title\nn0,Alien³\nn1,\u05e9\u05dc\u05d5\u05dd 🎬\n", encoding="utf-8")
    main(["add", str(tmp_path / "run"), "--items", str(tmp_path / "new.csv")])
    shown = capsys.readouterr().out
    assert "items added: 2; in the catalogue now: 12" in shown
    assert ("of a prompt, so many fewer are left for a history" in shown) == longer_than_before(tmp_path / "run")
    main(["recommend", str(tmp_path / "run"), "--history", "Up", "-k", "20"])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {line[3] for line in lines if line[-1] == "untrained"} >= {"n0", "n1"}
    with pytest.raises(SystemExit, match="2"):
        main(["add", str(tmp_path / "run"), "--items", str(tmp_path / "new.csv")])
    assert "item_id 'n0', 'n1': in the catalogue already" in capsys.readouterr().err
    # What was evaluated before stays what it was, of the items that there were.
    main(["compare", f"before={runs[0]}", f"after={tmp_path / 'run'}", "--out", str(tmp_path / "compared")])
    rows = {row.pop("model"): row for row in json.loads((tmp_path / "compared" / "summary.json").read_text())["rows"]}
    assert rows["after"]["coverage@10"] == rows["before"]["coverage@10"] and rows["after"] == rows["before"]


def test_recommend_by_effect_tells_both_parts(runs, capsys):
    main(["recommend", str(runs[1]), "--history", "Up", "-k", "4", "--gamma", "0.5", "--prior", "trained"])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3", "4"]
    for _, score, title, _, log_p, effect in lines:
        assert title in TITLES
        assert float(score) == pytest.approx(float(log_p) + 0.5 * float(effect), abs=2e-4)
    message = fails(capsys, "recommend", str(runs[0]), "--history", "Up", "--gamma", "0.5", "--prior", "trained")
    assert "has trained none" in message


def test_recommend_ungrounded_counts_inventions(runs, capsys):
    main(["recommend", str(runs[0]), "--history", "Up", "-k", "3", "--ungrounded", "--beams", "2"])
    shown = capsys.readouterr()
    titles = [line.split("\t")[2] for line in shown.out.splitlines()]
    assert len(set(titles)) == 3
    assert set(titles) <= set(TITLES) - {"Up"}


def test_a_diverged_model_ranks_nothing(runs, dataset, tmp_path, capsys):
    run = shutil.copytree(runs[0], tmp_path / "run")
    file = run / "model" / "model.safetensors"
    weights = {name: np.full_like(values, np.nan) for name, values in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["files"].pop("model/model.safetensors")  # its checksum
    (run / "manifest.json").write_text(json.dumps(manifest))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    history = ["--history", "Alien"]
    for words in (
        ["evaluate", str(run), str(dataset)],
        ["evaluate", str(run), str(dataset), "--candidates", "5"],
        ["recommend", str(run), *history],
        ["recommend", str(run), *history, "--ungrounded"],
        ["recommend", str(run), "--users", str(dataset), "--out", str(tmp_path / "lists.parquet")],
        ["explain", str(run), *history, "--item", "Up"],
    ):
        assert "training diverged; train again with a lower learning_rate" in fails(capsys, *words)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_rules_hold_for_all_users(runs, dataset, tmp_path):
    items = Dataset.load(dataset).items["item_id"].to_list()
    (tmp_path / "allow").write_text("\n".join(items[:6]))
    (tmp_path / "deny").write_text("\n".join(items[3:]))
    rules = ["--allow", str(tmp_path / "allow"), "--deny", str(tmp_path / "deny"), "--keep-history"]
    out = tmp_path / "out.parquet"
    main(["recommend", str(runs[0]), "--users", str(dataset), "--out", str(out), *rules])
    assert all(set(row) == set(items[:3]) for row in pl.read_parquet(out)["items"].to_list())


def test_recommend_to_all_users_of_a_dataset(runs, dataset, tmp_path, capsys):
    """What the file holds is what each user would be told alone."""
    data, out = Dataset.load(dataset), tmp_path / "all.parquet"
    main(["recommend", str(runs[0]), "--users", str(dataset), "--out", str(out), "-k", "2"])
    assert capsys.readouterr().out == f"30 users\n{out}\n"
    found, recommender = pl.read_parquet(out), Recommender.from_pretrained(runs[0])
    assert found["user"].to_list() == data.users.to_list()
    for row, (begin, end) in enumerate(zip(data.offsets[:-1], data.offsets[1:], strict=True)):
        titles = data.items["title"].gather(data.events[begin:end]).to_list()
        (answer,) = recommender.recommend([titles], 2)
        assert found["titles"][row].to_list() == [item.title for item in answer]
        np.testing.assert_allclose(found["scores"][row].to_list(), [item.score for item in answer], atol=1e-5)
    assert "is there already" in fails(
        capsys, "recommend", str(runs[0]), "--users", str(dataset), "--out", str(out), "-k", "2"
    )


def test_recommend_takes_one_question(runs, dataset, capsys):
    for options, message in [
        ([], "either --history TITLE"),
        (["--history", "Up", "--users", str(dataset), "--out", "x.parquet"], "either --history TITLE"),
        (["--users", str(dataset)], "go together"),
        (["--history", "Up", "--ungrounded", "--budget", "9"], "--budget is not read with --ungrounded"),
        (["--history", "Up", "--beams", "9"], "--beams is not read without --ungrounded"),
        (["--history", "Up", "--prior", "trained"], "--prior is not read without --gamma"),
        (["--history", "Up", "--out", "x.parquet"], "go together"),
        (["--history", "Up", "--ungrounded", "--gamma", "1"], "--history alone"),
    ]:
        assert message in fails(capsys, "recommend", str(runs[0]), *options)


def test_evaluate_in_other_ways_leaves_the_rest_alone(runs, dataset, capsys, tmp_path):
    """Each has a folder of its own, and the lists are those that a recommender gives."""
    run, data = runs[0], Dataset.load(dataset)
    before = (run / "metrics.json").read_bytes()
    recommender = Recommender.from_pretrained(run)
    ids = recommender.catalogue.item_ids
    histories = [data.history(position) for position in data.targets("test")]
    keep = data.events[data.targets("test")].tolist()

    main(["evaluate", str(run), str(dataset), "--gamma", "0.5", "--top", "27"])
    (where,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(run))]
    assert where == str(run / "gamma-0.5-counts-top-27")
    expected = recommender.guided(histories, 20, gamma=0.5, top=27, keep=keep)
    ranks = pl.read_parquet(run / "gamma-0.5-counts-top-27" / "ranks.parquet")
    assert ranks["items"].to_list() == [[ids[item] for item in row if item >= 0] for row in expected.items]
    facts = json.loads((run / "gamma-0.5-counts-top-27" / "evaluation.json").read_text())
    assert facts["way"] == {"name": "gamma-0.5-counts-top-27", "gamma": 0.5, "prior": "counts", "top": 27}

    main(["evaluate", str(runs[1]), str(dataset), "--beam", "2"])
    main(["evaluate", str(run), str(dataset), "--beam", "2"])
    expected = recommender.search(histories, 20, keep=keep, beam=2)
    ranks = pl.read_parquet(run / "beam-2" / "ranks.parquet")
    assert ranks["items"].to_list() == [[ids[item] for item in row if item >= 0] for row in expected.items]
    assert ranks["exact"].to_list() == expected.exact.tolist()

    users = data.users.gather(data.user_of(data.targets("test"))).to_list()
    liked = pl.DataFrame({"user": users, "item": ranks["target"], "score": [9.5] * len(users)})
    rest = pl.DataFrame({"user": users, "item": ["i0"] * len(users), "score": [-2.0] * len(users)})
    pl.concat([rest, liked]).write_csv(tmp_path / "oracle.csv")
    main(["evaluate", str(run), str(dataset), "--helper", str(tmp_path / "oracle.csv"), "--helper-weight", "0.9"])
    assert json.loads((run / "helper-0.9-oracle" / "metrics.json").read_text())["HR@1"] == 1
    assert pl.read_parquet(run / "helper-0.9-oracle" / "ranks.parquet")["exact"].all()
    pl.concat([rest, liked]).with_columns(pl.col("score") / 4).write_csv(tmp_path / "quarter.csv")
    main(["evaluate", str(run), str(dataset), "--helper", str(tmp_path / "quarter.csv"), "--helper-scale", "4"])
    main(["evaluate", str(run), str(dataset), "--helper", str(tmp_path / "oracle.csv")])
    scaled, whole = (pl.read_parquet(run / f"helper-0.5{name}" / "ranks.parquet") for name in ("x4-quarter", "-oracle"))
    assert scaled.equals(whole)

    main(["evaluate", str(run), str(dataset), "--split", "train"])  # many targets a user, told apart by history_length
    lists = pl.read_parquet(run / "train" / "ranks.parquet")
    assert lists["user"].is_duplicated().any()
    liked = pl.col("target").map_elements(lambda item: ["i0", item], pl.List(pl.String))
    (tmp_path / "sasrec").mkdir()
    lists.with_columns(items=liked, scores=pl.lit([-2.0, 9.5])).write_parquet(tmp_path / "sasrec" / "ranks.parquet")
    helper = ["--helper", str(tmp_path / "sasrec" / "ranks.parquet"), "--helper-weight", "1"]
    main(["evaluate", str(run), str(dataset), "--split", "train", *helper])
    assert pl.read_parquet(run / "train" / "helper-1-sasrec" / "ranks.parquet")["rank"].to_list() == [1] * len(lists)
    main(["evaluate", str(run), str(dataset), "--helper", str(runs[1] / "beam-2" / "ranks.parquet")])
    assert (run / f"helper-0.5-{runs[1].name}-beam-2" / "metrics.json").exists()

    main(["evaluate", str(run), str(dataset), "--ungrounded", "--beams", "3"])
    facts = json.loads((run / "ungrounded-beams-3" / "evaluation.json").read_text())
    assert facts["way"]["written"] == 75
    assert 0 <= facts["way"]["invented"] <= 75
    assert (run / "metrics.json").read_bytes() == before


def test_bad_ways_to_evaluate(runs, dataset, capsys, tmp_path):
    def line(*options: str) -> str:
        return fails(capsys, "evaluate", str(runs[0]), str(dataset), *options)

    assert "--gamma and --ungrounded are ways to rank; choose one" in line("--gamma", "1", "--ungrounded")
    assert "--top goes with --gamma; leave it out" in line("--top", "9")
    assert "--beam 0: must be at least 1" in line("--beam", "0")
    assert "--gamma and --beam are ways to rank; choose one" in line("--beam", "0", "--gamma", "1")
    for gamma in ("-1", "nan", "inf"):  # one line: refused before effects are measured, which a bar on stderr shows
        assert f"--gamma {gamma}" in line("--gamma", gamma)
    assert "--top 0: must be at least 1" in line("--gamma", "1", "--top", "0")
    assert "--beams 0: must be at least 1" in line("--ungrounded", "--beams", "0")
    assert "--grounded 5: must be from 1 to 4" in line("--ungrounded", "--grounded", "5")
    assert "--seed goes with --sample or --candidates N" in line("--seed", "7")
    assert "--seed goes with --sample or --candidates N" in line("--candidates", "own.csv", "--seed", "7")
    assert "--keep-history is not read with --gamma" in line("--gamma", "1", "--keep-history")
    assert "--effect-targets is not read with --candidates" in line("--candidates", "9", "--effect-targets", "3")
    assert "--effect-targets -1: must be at least 0" in line("--effect-targets", "-1")
    assert "--prior is not read with --candidates" in line("--candidates", "9", "--prior", "counterfactual")
    assert "--sample is not read with --predictions" in line("--predictions", "x.csv", "--sample", "3")
    (tmp_path / "helper.csv").write_text("user,item,score\nu9,i0,1\nu9,i1,nan\n")
    assert "row 2: score is 'nan', which is no finite number" in line("--helper", str(tmp_path / "helper.csv"))
    (tmp_path / "helper.csv").write_text("user,item,score\nnobody,i0,1\n")
    assert "no known item of user" in line("--helper", str(tmp_path / "helper.csv"))
    (tmp_path / "helper.csv").write_text("user,item,score,history_length\nu0,i0,1,77\n")
    assert "with that history_length" in line("--helper", str(tmp_path / "helper.csv"))
    (tmp_path / "helper.csv").write_text("user,item,score,history_length\nu0,i0,1,-1\n")
    assert "history_length is '-1', which is no whole number" in line("--helper", str(tmp_path / "helper.csv"))
    lists = pl.DataFrame(
        {"user": ["u9"], "items": [["i0"]], "scores": [None]}, schema_overrides={"scores": pl.List(float)}
    )
    lists.write_parquet(tmp_path / "ranks.parquet")
    assert "its lists have no scores" in line("--helper", str(tmp_path / "ranks.parquet"))
    pl.DataFrame({"user": ["u9"], "item": ["i0"], "score": [[1.0]]}).write_parquet(tmp_path / "nested.parquet")
    assert "row 1: score is" in line("--helper", str(tmp_path / "nested.parquet"))
    assert "helper_scale 0.0: must be above 0" in line("--helper", str(tmp_path / "helper.csv"), "--helper-scale", "0")
    assert "helper_scale inf: must be above 0 and finite" in line(
        "--helper", str(tmp_path / "helper.csv"), "--helper-scale", "inf"
    )
    rows = [f"u{user},i{item},{item}e200\n" for user in range(30) for item in range(9)]
    (tmp_path / "big.csv").write_text("user,item,score\n" + "".join(rows))
    told = line("--helper", str(tmp_path / "big.csv"), "--helper-scale", "1e200")
    assert f"helper_scale 1e+200: the scores of {tmp_path / 'big.csv'} times it overflow" in told
    assert "--helper-scale goes with --helper" in line("--helper-scale", "2")
    assert "helper_weight 2" in line("--helper", str(tmp_path / "helper.csv"), "--helper-weight", "2")


@pytest.mark.parametrize("prompt", ["alpaca", "d3", "template"])
def test_prompts_train_and_recommend(dataset, prompt, tmp_path):
    (tmp_path / "template").write_text("Seen {category}s: {history}.\nNext:")
    name = str(tmp_path / "template") if prompt == "template" else prompt
    run = train(dataset, tmp_path / "run", f"prompt={name}", "history_stride=1", "window=5", "softmax=catalogue")
    recommender = Recommender.from_pretrained(run)
    (answer,) = recommender.recommend([["Alien", "Up", "Fargo"]], k=2)
    scores = recommender.score([["Alien", "Up", "Fargo"]], [item.title for item in answer])[0]
    np.testing.assert_allclose([item.score for item in answer], scores, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_4_bits_take_a_gpu(runs, dataset, tmp_path, capsys):
    options = [f"model={runs[0] / 'model'}", "lora_rank=2", "load_in_4bit=true"]
    message = fails(capsys, "train", str(dataset), "--out", str(tmp_path / "run"), "--set", *options)
    assert "load_in_4bit" in message
    assert "CUDA" in message
    assert not list(tmp_path.iterdir())


def test_training_from_a_folder_goes_on_from_its_weights(runs, dataset, tmp_path):
    run = train(dataset, tmp_path / "again", f"model={runs[0] / 'model'}", "learning_rate=0")
    before, after = (Recommender.from_pretrained(folder) for folder in (runs[0], run))
    np.testing.assert_allclose(before.score([["Up"]], TITLES), after.score([["Up"]], TITLES), atol=1e-6)


def test_same_seed_same_run(dataset, tmp_path):
    scores = [
        Recommender.from_pretrained(train(dataset, tmp_path / f"{seed}{n}", f"seed={seed}")).score([["Up"]], TITLES)
        for n, seed in enumerate((3, 3, 4))
    ]
    assert (scores[0] == scores[1]).all()
    assert (scores[0] != scores[2]).any()


def test_time_split_has_users_without_history(log, tmp_path):
    prepare(log, tmp_path / "d", "--split", "time")
    run = train(tmp_path / "d", tmp_path / "run")
    main(["evaluate", str(run), str(tmp_path / "d")])
    ranks = pl.read_parquet(run / "ranks.parquet")
    assert ranks.height == len(Dataset.load(tmp_path / "d").targets("test"))
    assert ranks["history_length"].min() == 0


def test_repeats_are_recommended_to_an_evaluation_only(log, runs, tmp_path):
    """A target that is in its history keeps its rank; the other items of the history stay out."""
    rows = [(f"u{user}", f"i{item}", place) for user in range(8) for place, item in enumerate([1, 2, 3, user, 1])]
    pl.DataFrame(rows, ["user_id", "item_id", "time"], orient="row").write_csv(tmp_path / "log.csv")
    (tmp_path / "items.csv").write_bytes((log / "items.csv").read_bytes())
    prepare(tmp_path, tmp_path / "d")
    main(["evaluate", str(runs[0]), str(tmp_path / "d")])
    ranks = pl.read_parquet(runs[0] / "ranks.parquet")
    assert ranks["rank"].is_not_null().all()
    assert all("i1" in items and "i2" not in items for items in ranks["items"])


def test_bad_commands(capsys):
    assert "known are prepare, " in fails(capsys, "bogus")
    assert "--same-title" in fails(capsys, "prepare", "x", "--format", "table", "--out", "y", "--same", "merge")
    assert "distinguish" in fails(capsys, "prepare", "x", "--format", "table", "--out", "y", "--same-title", "no")
    assert "--out" in fails(capsys, "train", "x")
    assert "-k" in fails(capsys, "recommend", "x", "--history", "y", "-k", "many")


def test_bad_prepare_input(capsys, log, tmp_path):
    out = str(tmp_path / "out")

    def line(source: Path | str, *more: str, format: str = "table") -> str:
        return fails(capsys, "prepare", str(source), "--format", format, "--out", out, *more)

    assert "recbole, movielens, amazon" in line(log / "log.csv", format="bogus")
    assert "nowhere.csv" in line(tmp_path / "nowhere.csv")
    (tmp_path / "empty.csv").write_text("user_id,item_id,title\n")
    assert "empty.csv" in line(tmp_path / "empty.csv")
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)) * 9)
    assert "noise.csv" in line(tmp_path / "noise.csv")
    assert "user_id" in line(log / "log.csv", "--user-column", "nobody")
    (tmp_path / "time.csv").write_text("user_id,item_id,title,time\na,b,c,1\na,d,e,noon\n")
    shown = line(tmp_path / "time.csv", "--timestamp-column", "time")
    assert "time.csv" in shown
    assert "2" in shown
    assert "min_user_events" in line(log / "log.csv", "--items", str(log / "items.csv"), "--min-user-events", "99")
    (tmp_path / "untitled.csv").write_text("user_id,item_id,title\na,b,\na,c,\na,d,D\n")
    assert "max_untitled" in line(tmp_path / "untitled.csv")
    assert not Path(out).exists()
    assert not list(tmp_path.glob(".out*"))


def test_bad_training_input(capsys, log, dataset, tmp_path):
    out = str(tmp_path / "out")

    def line(*more: str, data: Path = dataset) -> str:
        return fails(capsys, "train", str(data), "--out", out, *more)

    assert "no-model" in line("--model", "no-model")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert "model" in line("--model", str(tmp_path / "model"))
    assert "effect_weight" in line("--set", "effect_weigth=1")
    assert "beta" in line("--set", "beta=much")
    assert "key=value" in line("--set", "beta")
    assert "history_stride" in line("--set", "window=3")
    assert "vocabulary" in line("--set", "softmax=hard")
    assert "plain, alpaca" in line("--set", "prompt=nowhere.txt")
    assert "cftrec prepare" in line(data=log)
    (tmp_path / "c.yaml").write_text("beta: [\n")
    assert "c.yaml" in line("--config", str(tmp_path / "c.yaml"))
    assert not Path(out).exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert "not empty" in line()
    assert "not empty" in fails(capsys, "prepare", str(log / "log.csv"), "--format", "table", "--out", out)
    assert (tmp_path / "out" / "precious").read_text() == "x"


def test_bad_input_to_runs(capsys, runs, dataset, tmp_path):
    shown = fails(capsys, "recommend", str(runs[0]), "--history", "Star War (1977)")
    assert "'Star Wars (1977)'" in shown
    assert shown.count("'") == 8  # the title itself and three near ones
    assert "at least 1" in fails(capsys, "recommend", str(runs[0]), "--history", "Up", "-k", "0")
    for option, wanted in (
        (["--split", "holdout"], "test"),
        (["--prior", "best"], "counts, trained, counterfactual"),
        (["--prior", "trained"], "prior_weight"),
        (["--sample", "26"], "from 1 to 25"),
        (["--candidates", "1"], "at least 2"),
        (["--candidates", "nowhere.csv"], "nowhere.csv"),
        (["--candidates=-5"], "--candidates -5: must be at least 2"),
        (["--candidates=--5"], "--5: no such file"),
    ):
        assert wanted in fails(capsys, "evaluate", str(runs[0]), str(dataset), *option)
    assert "cftrec train" in fails(capsys, "evaluate", str(dataset), str(dataset))
    assert "cftrec evaluate" in fails(
        capsys, "compare", str(train(dataset, tmp_path / "raw")), "--out", str(tmp_path / "c")
    )
    assert not (tmp_path / "c").exists()


def test_a_cut_file_is_named(capsys, dataset, tmp_path):
    subprocess.run(["cp", "-r", str(dataset), str(tmp_path / "d")], check=True)
    (tmp_path / "d" / "events.arrow").write_bytes(b"ARROW1")
    assert "events.arrow" in fails(capsys, "train", str(tmp_path / "d"), "--out", str(tmp_path / "r"))


def test_help_and_exit_codes_of_the_process():
    """The real entry point: help tells defaults, errors are one line without a traceback."""
    command = [sys.executable, "-m", "cftrec.cli"]
    shown = subprocess.run([*command, "prepare", "--help"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0
    assert "--same-title {merge,distinguish,keep}" in shown.stdout
    assert "default: merge" in shown.stdout
    failed = subprocess.run([*command, "recommend", "/", "--history", "x"], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1


def test_what_the_terminal_cannot_hold_is_escaped(tmp_path):
    (tmp_path / "x.csv").write_text("user_id,item_id,title\nu,1,Amélie\n", encoding="utf-8")
    command = [sys.executable, "-m", "cftrec.cli", "prepare", "--describe", str(tmp_path / "x.csv")]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(command, capture_output=True, text=True, env=ascii_only, check=True).stdout
    assert "titles   Am\\xe9lie" in shown


@pytest.mark.skipif(not GAMES.is_dir(), reason="the Amazon Games log lies beside the project's own checkout only")
def test_games(tmp_path, capsys):
    out = str(tmp_path / "games")
    main(["prepare", str(GAMES), "--format", "recbole", "--split", "leave-one-out", "--out", out])
    assert "50,546 users" in capsys.readouterr().out
    assert len(Dataset.load(out).targets("test")) == 50_546


@pytest.mark.skipif(
    importlib.util.find_spec("recbole") is None, reason="the recbole wheel, which carries it, is absent"
)
def test_movielens_of_the_wheel(tmp_path, capsys):
    main(["prepare", "installed", "--format", "movielens", "--out", str(tmp_path / "ml")])
    assert "943 users" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["patience=1"], "patience"),
        (["sample=0"], "at least 1 sample"),
        (["sample=9999"], "training samples; leave it out"),
        (["patience=0", "load_best_model_at_end=true", "eval_strategy=epoch", "save_strategy=epoch"], "patience"),
        (["metric_for_best_model=foo"], "metric_for_best_model"),
        (["max_steps=0"], "max_steps"),
        (["max_steps=-5"], "max_steps"),
        (["dataloader_num_workers=-1"], "dataloader_num_workers"),
        (["optim_args=zzz"], "options of transformers"),
        (["torch_compile=true", "torch_compile_backend=zzz"], "zzz"),
        (["output_dir=zzz"], "--out"),
        (["resume_from_checkpoint=zzz"], "resume_from_checkpoint"),
        (["do_train=true"], "do_train"),
    ],
)
def test_options_that_make_no_training(capsys, dataset, tmp_path, options, named):
    shown = fails(capsys, "train", str(dataset), "--out", str(tmp_path / "r"), "--set", *TINY.split(), *options)
    assert named in shown
    assert list(tmp_path.iterdir()) == []


def test_the_folder_one_stands_in_can_be_the_output(dataset, log, tmp_path, monkeypatch):
    """An empty folder that must stay where it is: where the user stands, or a mount point."""
    for name in ("data", "run"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        if name == "data":
            prepare(log, Path())
        else:
            main(["train", str(dataset), "--out", ".", "--set", *TINY.split(), "max_steps=1"])
        assert (Path.cwd() / "manifest.json").is_file()
    assert len(Dataset.load(tmp_path / "data").users) == 30
    assert Recommender.from_pretrained(tmp_path / "run").run_name == "run"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "run"}
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_mode & 0o044 == 0o044


def test_another_datas_evaluation_does_not_replace_a_runs_own(capsys, runs, log, tmp_path):
    before = (runs[1] / "metrics.json").read_bytes()
    rows = [(f"u{user}", f"other{item}", item) for user in range(4) for item in range(5)]
    pl.DataFrame(rows, ["user_id", "item_id", "time"], orient="row").write_csv(tmp_path / "log.csv")
    pl.DataFrame({"item_id": [f"other{n}" for n in range(5)], "title": TITLES[:5]}).write_csv(tmp_path / "items.csv")
    prepare(tmp_path, tmp_path / "d")
    assert "item id" in fails(capsys, "evaluate", str(runs[1]), str(tmp_path / "d"))
    assert (runs[1] / "metrics.json").read_bytes() == before


def test_histories_given_in_parts_are_one(runs, capsys):
    answers = []
    for history in (["--history", "Up", "Alien"], ["--history", "Up", "--history", "Alien"]):
        main(["recommend", str(runs[0]), *history])
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    main(["recommend", str(runs[0]), "--history", "Up", "-k", "100000000000"])
    assert len(capsys.readouterr().out.splitlines()) == 9


def test_a_short_training_is_logged_whole(runs):
    """Four steps, and a line each ten: the last step has one, with the work of all."""
    lines = json.loads((runs[0] / "log.json").read_text())["log"]
    (line,) = (line for line in lines if "normal" in line)
    assert line["step"] == 4
    assert 0 < line["tokens_computed"] < line["tokens_naive"]


def test_help_of_train_lists_its_options(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("effect_weight", "lambda, the weight of the effect term", "(default: 0.25)", "history_stride"):
        assert part in shown


def test_errors_are_whole_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    shown = fails(capsys, "prepare", "x", "--format", "table", "--out", "y", "--bogus")
    assert "--items-item-column, --join-year" in shown


def test_tables_that_hide_a_mistake(capsys, tmp_path):
    (tmp_path / "twice.csv").write_text("user_id,user_id,item_id,title\na,b,c,d\n")
    (tmp_path / "short.csv").write_text("user_id,item_id,title\na,b,B\na,c\n")
    for name, line in (("twice", "two columns are called 'user_id'"), ("short", "row 2 (line 3): 2 fields")):
        shown = fails(
            capsys, "prepare", str(tmp_path / f"{name}.csv"), "--format", "table", "--out", str(tmp_path / "d")
        )
        assert line in shown


def test_a_run_is_not_called_as_the_baseline(capsys, dataset, tmp_path):
    assert "baseline" in fails(capsys, "train", str(dataset), "--out", str(tmp_path / "popular"))


@pytest.mark.parametrize("options", [["--timeout", "inf"], ["--timeout", "0"], ["--batch", "0"]])
def test_a_service_without_bounds_is_refused(runs, capsys, options):
    assert "must be above 0, and --timeout finite" in fails(capsys, "serve", str(runs[0]), *options)


def test_explain_prints_numbers_that_add_up(runs, capsys):
    capsys.readouterr()
    main(["explain", str(runs[0]), "--history", "Star Wars", "Up", "--item", "Alien", "--shapley", "2"])
    out = capsys.readouterr().out
    total = float(re.search(r"^Alien: effect (\S+) nats over the prior counts$", out, re.MULTILINE)[1])
    tokens, history = out.split("by item of the history")
    parts = [float(line.split("\t")[0]) for line in tokens.splitlines() if "\t" in line]
    shares = [float(line.split("\t")[1].split()[0]) for line in history.splitlines() if "\t" in line]
    assert sum(parts) == pytest.approx(total, abs=5e-4)
    assert sum(shares) == pytest.approx(total, abs=2e-4)
    assert [line.split("\t")[2] for line in history.splitlines() if "\t" in line] == ["Star Wars", "Up"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--history", "Up", "--item", "Alein"], "nearest"),
        (["--history", "Up", "--item", "Alien", "--prior", "trained"], "prior_weight"),
        (["--history", "Up", "Fargo", "--item", "Alien", "--shapley", "1"], "at least 2"),
        (["--history", "Up", "--item", "Alien", "--seed", "9"], "--seed goes with --shapley"),
    ],
)
def test_bad_explanations(runs, capsys, options, said):
    assert said in fails(capsys, "explain", str(runs[0]), *options)
