"""Ranks within candidates against brute force, and what a list of candidates may be."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from evaluation_fakes import Ranker, make_dataset, ranker_for

from cftrec import Catalogue, Recommender
from cftrec.artefacts import new_folder
from cftrec.errors import InputError
from cftrec.evaluation import rank_candidates
from cftrec.text import Prompt


@pytest.fixture
def recommender(dataset, tiny_model):
    """A random model over 40 titles of two tokens; two items share the last one."""
    ids = dataset.items["item_id"].to_list()
    sequences = [[1 + min(n, 38) // 7, 1 + min(n, 38) % 7, 9] for n in range(40)]
    catalogue = Catalogue.build(ids, ids, sequences, dataset.item_counts())
    prompt = Prompt((0,), (), (9,), (9,), (0, 8))
    return Recommender(tiny_model("llama", 10).eval(), catalogue, prompt, 5, "catalogue", "random")


def hit_rate(ranks) -> float:
    return float(np.mean([rank == 1 for rank in ranks["rank"]]))


@pytest.mark.parametrize("softmax", ["catalogue", "vocabulary"])
def test_ranks_equal_brute_force(recommender, dataset, softmax):
    recommender = replace(recommender, softmax=softmax)
    result = rank_candidates(recommender, dataset, 8)
    assert result.ranks.height == 30
    for row, position in zip(result.ranks.iter_rows(named=True), dataset.targets("test"), strict=True):
        user = int(dataset.user_of(position))
        every = dataset.events[dataset.offsets[user] : dataset.offsets[user + 1]].tolist()
        target = int(dataset.events[position])
        listed = [int(item[1:]) for item in row["items"]]
        assert (len(listed), len(set(listed))) == (8, 8)
        assert set(listed) & set(every) == {target}
        history = [f"i{item}" for item in dataset.history(position)]
        scores = dict(zip(listed, recommender.score([history], row["items"])[0], strict=True))
        np.testing.assert_allclose(row["scores"], [scores[item] for item in listed], atol=1e-4)
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert row["rank"] == 1 + listed.index(target)
    assert result.summary["HR@1"] == hit_rate(result.ranks)
    assert result.summary["HR@1_ci"][0] <= result.summary["HR@1"] <= result.summary["HR@1_ci"][1]
    assert result.summary["chance"] == 1 / 8


def test_equal_scores_stand_in_item_order(dataset, recommender, tmp_path):
    """Items 38 and 39 have one title."""
    columns = {"user": [f"u{user}" for user in range(30)] * 2, "item": ["i39"] * 30 + ["i38"] * 30}
    pl.DataFrame(columns).write_parquet(tmp_path / "two.parquet")
    result = rank_candidates(recommender, dataset, tmp_path / "two.parquet")
    assert result.ranks["items"].to_list() == [["i38", "i39"]] * 30


def test_a_draw_depends_on_target_and_seed_alone(dataset):
    ranker = ranker_for(dataset)
    whole = rank_candidates(ranker, dataset, 5, seed=3).ranks
    part = rank_candidates(ranker, dataset, 5, seed=3, sample=7).ranks
    assert part.height == 7
    assert part.equals(whole.filter(pl.col("user").is_in(part["user"].to_list())))
    assert not whole["items"].equals(rank_candidates(ranker, dataset, 5, seed=4).ranks["items"])


def test_one_user_has_no_interval():
    summary = rank_candidates(ranker_for(one := make_dataset(users=1)), one, 5).summary
    assert (summary["users"], summary["HR@1_ci"]) == (1, None)


def test_fewer_unseen_items_than_wanted(dataset):
    result = rank_candidates(ranker_for(dataset), dataset, 1000)
    events = [dataset.events[dataset.offsets[user] : dataset.offsets[user + 1]] for user in range(30)]
    assert result.ranks["items"].list.len().to_list() == [1 + 40 - len(set(own.tolist())) for own in events]
    sizes = result.summary["candidates"]
    assert sizes["least"] < sizes["mean"] < sizes["most"]


def test_given_candidates(dataset, tmp_path):
    """All users get three; a target outside them is a miss; unknown and repeated ones are left out."""
    ids = ["i0", "i1", "i2", "i2", "i99"]
    rows = [(f"u{user}", item) for user in [*range(30), 77] for item in ids]
    pl.DataFrame(rows, ["user", "item"], orient="row").write_csv(tmp_path / "candidates.csv")
    result = rank_candidates(ranker_for(dataset), dataset, tmp_path / "candidates.csv", out=tmp_path)
    for row in result.ranks.iter_rows(named=True):
        assert sorted(row["items"]) == ["i0", "i1", "i2"]
        assert row["rank"] == (1 + row["items"].index(row["target"]) if row["target"] in row["items"] else None)
    missed = result.ranks["rank"].null_count()
    assert 0 < missed == result.summary["targets_not_among_candidates"]
    assert result.summary["chance"] == pytest.approx((30 - missed) / 30 / 3)
    assert result.summary["unknown_candidates"] == 31
    assert result.summary["HR@1"] == hit_rate(result.ranks)
    assert json.loads((tmp_path / "candidates.json").read_text()) == result.summary
    assert pl.read_parquet(tmp_path / "candidate_ranks.parquet").equals(result.ranks)
    assert {file.name for file in tmp_path.iterdir()} == {
        "candidates.csv",
        "candidates.json",
        "candidate_ranks.parquet",
    }


def test_a_target_that_the_run_does_not_know_is_a_miss(dataset):
    known = [item for item in range(40) if item % 3]
    ranker = Ranker("smaller", [f"i{item}" for item in known], dataset.item_counts()[known])
    result = rank_candidates(ranker, dataset, 4)
    unknown = [int(target[1:]) % 3 == 0 for target in result.ranks["target"]]
    assert result.ranks["rank"].is_null().to_list() == unknown
    assert all(int(item[1:]) % 3 for items in result.ranks["items"] for item in items)


def test_candidates_none_of_which_the_run_knows(dataset, recommender, tmp_path):
    pl.DataFrame({"user": [f"u{user}" for user in range(30)], "item": "i99"}).write_csv(tmp_path / "unknown.csv")
    with new_folder(tmp_path / "run", "run", {}):
        pass
    result = rank_candidates(recommender, dataset, tmp_path / "unknown.csv", out=tmp_path / "run")
    assert result.ranks["rank"].null_count() == result.summary["unknown_candidates"] == 30
    assert result.summary["HR@1"] == result.summary["candidates"]["most"] == 0


def test_bad_input(dataset, tmp_path):
    ranker = ranker_for(dataset)
    with pytest.raises(InputError, match="--candidates 1: must be at least 2"):
        rank_candidates(ranker, dataset, 1)
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        rank_candidates(ranker, dataset, tmp_path / "nowhere.csv")
    pl.DataFrame({"user": ["u0"], "item": ["i0"]}).write_csv(tmp_path / "short.csv")
    with pytest.raises(InputError, match=r"short\.csv: no candidate of user 'u1'"):
        rank_candidates(ranker, dataset, tmp_path / "short.csv")
    pl.DataFrame({"user_id": ["u0"], "item": ["i0"]}).write_csv(tmp_path / "columns.csv")
    with pytest.raises(InputError, match="no column 'user'"):
        rank_candidates(ranker, dataset, tmp_path / "columns.csv")
