import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from evaluation_fakes import Ranker, make_dataset, ranker_for

from cftrec.artefacts import sha256
from cftrec.data.dataset import Dataset
from cftrec.errors import InputError
from cftrec.evaluation import ALL_METRICS, evaluate, evaluation_table, rank_by_popularity, ways
from cftrec.evaluation.ways import Way


def test_popularity_as_a_ranker_gets_the_ranks_of_the_baseline(dataset):
    result = evaluate(ranker_for(dataset), dataset, batch_size=7)
    assert result.ranks["items"].to_list() == result.popular["items"].to_list()
    assert result.ranks["rank"].to_list() == [rank if rank <= 20 else None for rank in result.popular["rank"]]
    positions = dataset.targets("test")
    expected = rank_by_popularity(
        dataset.item_counts(), [dataset.history(position) for position in positions], dataset.events[positions]
    )
    assert result.popular["rank"].to_list() == expected.ranks.tolist()
    assert tuple(result.metrics) == ALL_METRICS


def test_rows_tell_user_target_and_history(dataset):
    result = evaluate(ranker_for(dataset, noise=5.0), dataset)
    for user, row in enumerate(result.ranks.iter_rows(named=True)):
        events = [f"i{item}" for item in dataset.events[dataset.offsets[user] : dataset.offsets[user + 1]]]
        assert (row["user"], row["target"], row["history_length"]) == (f"u{user}", events[-1], len(events) - 1)
        assert row["history"] == events[:-1][-20:]
        assert row["rank"] == (row["items"].index(events[-1]) + 1 if events[-1] in row["items"] else None)
        assert len(row["items"]) == len(row["scores"]) <= 20
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert not set(row["items"]) & (set(events[:-1]) - {events[-1]})


def test_files_are_written_and_read_back(tmp_path, dataset):
    result = evaluate(ranker_for(dataset), dataset, out=tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "effects.json",
        "effects.parquet",
        "evaluation.json",
        "metrics.json",
        "popular.parquet",
        "ranks.parquet",
        "slices.json",
    ]
    assert json.loads((tmp_path / "metrics.json").read_text()) == result.metrics
    ranks = pl.read_parquet(tmp_path / "ranks.parquet")
    assert ranks.equals(result.ranks)
    stored = json.loads((tmp_path / "slices.json").read_text())
    assert stored["rows"] == result.table
    assert stored["rows"] == evaluation_table(ranks, dataset.items["item_id"].to_list(), dataset.item_counts())
    assert stored["bootstrap"]["draws"] == 2000
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    assert (facts["model"], facts["split"], facts["k"]) == ("cft", "test", 20)
    assert (facts["users"], facts["targets"], facts["exact_share"]) == (30, 30, 0.5)
    assert facts["dataset"]["name"] == "made up"


def test_the_dataset_is_named_by_the_hash_of_its_manifest(tmp_path, dataset):
    dataset.manifest["name"] = "Spiele für alle"
    dataset.manifest["share"] = 1 / 3
    dataset.save(tmp_path / "data")
    facts = evaluate(ranker_for(dataset), Dataset.load(tmp_path / "data")).facts
    assert facts["dataset"]["sha256"] == sha256(tmp_path / "data/manifest.json")


def test_another_split_has_its_own_folder(tmp_path, dataset):
    evaluate(ranker_for(dataset), dataset, "validation", out=tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["validation"]
    assert json.loads((tmp_path / "validation/evaluation.json").read_text())["split"] == "validation"


def test_a_sample_replaces_no_whole_evaluation(tmp_path, dataset):
    ranker = ranker_for(dataset)
    way = Way("beam-2", {}, lambda cases, k: ranker.search(cases.histories, k, keep=cases.targets.tolist()))
    evaluate(ranker, dataset, out=tmp_path)
    for options in ({}, {"seed": 7}, {"way": way}, {"way": way, "split": "validation"}):
        evaluate(ranker, dataset, out=tmp_path, sample=9, **options)
    for folder, targets in {
        "": 30,
        "sample-9": 9,
        "sample-9-seed-7": 9,
        "beam-2-sample-9": 9,
        "validation/beam-2-sample-9": 9,
    }.items():
        assert json.loads((tmp_path / folder / "evaluation.json").read_text())["targets"] == targets
    assert not (tmp_path / "beam-2").exists()


def test_another_table_of_one_name_replaces_nothing(tmp_path, dataset):
    ranker = ranker_for(dataset)

    def run(digest):
        facts = {"file": {"name": "h.csv", "sha256": digest}}
        way = Way("helper-0.5-h", facts, lambda cases, k: ranker.search(cases.histories, k, cases.targets.tolist()))
        evaluate(ranker, dataset, out=tmp_path, way=way)

    run("a")
    run("a")
    with pytest.raises(InputError, match=r"helper-0\.5-h: holds the evaluation with another h\.csv") as error:
        run("b")
    assert "\n" not in str(error.value)
    assert json.loads((tmp_path / "helper-0.5-h/evaluation.json").read_text())["way"]["file"]["sha256"] == "a"


def test_ways_with_other_options_have_other_folders():
    names = {("gamma-0.5-counts", 200), ("gamma-0.5-counts-top-48", 48)}
    assert {(ways.by_effect(None, 0.5, "counts", top).name, top) for top in (200, 48)} == names
    close = [ways.by_effect(None, gamma, "counts", 200).name for gamma in (0.3333333, 0.33333334)]
    assert close == ["gamma-0.3333333-counts", "gamma-0.33333334-counts"]
    found = [ways.ungrounded(None, *options).name for options in ((4, None), (4, 4), (4, 1), (2, None), (6, 2))]
    told = ["ungrounded-grounded-1", "ungrounded-beams-2", "ungrounded-beams-6-grounded-2"]
    assert found == ["ungrounded", "ungrounded", *told]


def test_unknown_items_are_dropped_and_counted_and_unknown_targets_missed(dataset):
    known = [item for item in range(40) if item % 3]  # in another order, too
    ranker = Ranker("cft", [f"i{item}" for item in reversed(known)], dataset.item_counts()[known][::-1].copy())
    result = evaluate(ranker, dataset)
    positions = dataset.targets("test")
    unknown = dataset.events[positions] % 3 == 0
    assert 0 < result.facts["unknown_targets"] == unknown.sum() < unknown.size
    assert result.facts["unknown_history_items"] == sum(
        int((dataset.history(position) % 3 == 0).sum()) for position in positions
    )
    assert result.ranks["rank"].filter(pl.Series(unknown)).is_null().all()
    assert result.popular["rank"].is_null().to_list() == unknown.tolist()
    assert all(int(item[1:]) % 3 for items in result.ranks["history"] for item in items)
    assert result.facts["effect_targets"] == (~unknown).sum()


def test_several_targets_of_a_user(dataset):
    dataset = make_dataset(users=12, targets_each=3)
    result = evaluate(ranker_for(dataset), dataset)
    assert (result.facts["users"], result.facts["targets"]) == (12, 36)
    assert result.ranks["history_length"].diff().drop_nulls().to_list().count(1) >= 24


def test_an_empty_history_has_defined_rows(dataset):
    start = dataset.split.copy()
    start[0] = 2  # as under a time split
    result = evaluate(ranker_for(dataset), replace(dataset, split=start))
    assert result.ranks.row(0, named=True)["history"] == []
    assert result.ranks["history_length"][0] == 0


def test_effects_are_those_of_the_measured_targets(tmp_path, dataset):
    result = evaluate(ranker_for(dataset), dataset, out=tmp_path, effect_targets=10)
    assert result.effects.table.height == result.facts["effect_targets"] == 10
    assert pl.read_parquet(tmp_path / "effects.parquet").equals(result.effects.table)
    assert json.loads((tmp_path / "effects.json").read_text()) == result.effects.summary
    assert result.effects.summary["log_p"] == pytest.approx(result.effects.summary["log_prior"] / 2)
    assert evaluate(ranker_for(dataset), dataset, effect_targets=0).effects.table.is_empty()


def test_progress_counts_targets(dataset):
    calls = []
    options = {"batch_size": 16, "effect_targets": 10}
    evaluate(ranker_for(dataset), dataset, progress=lambda done, total: calls.append((done, total)), **options)
    assert calls == [(10, 40), (26, 40), (40, 40)]


def test_a_sample_is_drawn_by_its_seed(dataset):
    whole = evaluate(ranker_for(dataset), dataset).ranks
    one, same, other = (evaluate(ranker_for(dataset), dataset, sample=9, seed=seed) for seed in (1, 1, 2))
    assert one.ranks.equals(same.ranks)
    assert not one.ranks.equals(other.ranks)
    assert one.ranks["user"].n_unique() == 9
    drawn = whole.filter(pl.col("user").is_in(one.ranks["user"].to_list()))
    assert one.ranks.drop("exact").equals(drawn.drop("exact"))
    assert (one.facts["sample"], one.facts["seed"], one.facts["targets"]) == (9, 1, 9)
    assert evaluate(ranker_for(dataset), dataset, sample=30).ranks.equals(whole)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"split": "dev"}, "--split dev: unknown split; choose one of train, validation, test"),
        ({"k": 10}, "-k 10: must be at least 20"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"effect_targets": -1}, "--effect-targets -1: must be at least 0"),
        ({"sample": 0}, "--sample 0: must be from 1 to 30, the targets of the test split"),
        ({"sample": 31}, "--sample 31: must be from 1 to 30"),
        ({"sample": 5, "seed": -1}, "--seed -1: must be 0 or more"),
        ({"prior": "nonsense", "effect_targets": 0}, "prior 'nonsense' is not known"),
        ({"k": 21, "way": ways.by_effect(None, 0.5, "counts", 20)}, "--top 20: must be at least -k 21"),
    ],
)
def test_bad_options(tmp_path, dataset, options, line):
    with pytest.raises(InputError) as error:
        evaluate(ranker_for(dataset), dataset, out=tmp_path, **options)
    assert line in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_split_without_targets(dataset):
    with pytest.raises(InputError, match="no target in its test split"):
        evaluate(ranker_for(dataset), replace(dataset, split=np.zeros_like(dataset.split)))


def test_a_kept_history_is_ranked_too(dataset):
    ranker = ranker_for(dataset)
    result = evaluate(ranker, dataset, keep_history=True)
    assert result.facts["keep_history"] is True
    histories = [dataset.history(int(position)) for position in dataset.targets("test")]
    best = [dataset.items["item_id"][int(item)] for item in ranker.search(histories, 20, keep_history=True).items[:, 0]]
    assert result.ranks["items"].list.first().to_list() == best
    order = np.argsort(-ranker.counts, kind="stable")
    names = dataset.items["item_id"].gather(order[:20]).to_list()
    assert all(names == row for row in result.popular["items"].to_list())
    assert "keep_history" not in evaluate(ranker, dataset).facts


def test_a_kept_history_goes_with_log_p_alone(dataset):
    with pytest.raises(InputError, match="gamma leaves the history out"):
        evaluate(ranker_for(dataset), dataset, keep_history=True, way=Way("gamma", {}, lambda cases, k: None))
