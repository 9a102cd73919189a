"""The method where the truth is known: ways to train near the best possible ranking, effects near the true ones."""

import pytest

from cftrec import Dataset, Recommender
from cftrec.data.world import WorldOptions, make_world
from cftrec.evaluation import evaluate, measure_effects
from cftrec.training import load_config, train

OPTIONS = {
    "category": "movie",
    "seed": 1,
    "max_steps": 600,
    "learning_rate": 5e-3,
    "nano_vocab_size": 400,
    "nano_hidden_size": 64,
    "nano_layers": 2,
    "report_to": "none",
    "save_strategy": "no",
}
METHODS = {
    "plain": {"effect_weight": 0, "beta": 1},
    "cft": {},
    "catalogue": {"effect_weight": 0, "beta": 1, "softmax": "catalogue"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "world"
    options = WorldOptions(items=50, users=3000, length=12, repeats=True)
    return folder, make_world(options).save(folder)["world"]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_nears_the_best_possible_ranking_and_the_true_effect(world, method, tmp_path):
    folder, truth = world
    run = train(folder, tmp_path / method, load_config(None, OPTIONS | METHODS[method]))
    recommender, dataset = Recommender.from_pretrained(run), Dataset.load(folder)
    reached = evaluate(recommender, dataset, keep_history=True, effect_targets=0, sample=1000).metrics["NDCG@10"]
    share = reached / truth["optimum"]["test"]["NDCG@10"]
    true = truth["mean_effect"]["test"]
    measured = {
        prior: measure_effects(recommender, dataset, prior=prior, targets=1000).summary["effect"]["mean"] / true
        for prior in ("counts", "counterfactual")
    }
    print(method, share, measured)
    assert share >= 0.9
    assert 0.9 < measured["counts"] < 1.1
    if method == "cft":  # has erased its own prior, which is no prior any more
        assert measured["counterfactual"] > 1.25
